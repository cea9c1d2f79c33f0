// Package groupcache is github.com/golang/groupcache with a cluster below.
package groupcache
