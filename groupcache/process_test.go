package groupcache

var children = map[string]func(){}
