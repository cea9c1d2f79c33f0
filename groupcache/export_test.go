package groupcache

// ReleaseStd ends all that the package's own registry has started.
func ReleaseStd() { std.release() }
