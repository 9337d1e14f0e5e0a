package control

import (
	"iter"
	"path"
	"strings"
)

// Match tells whether a pattern means the process of that name. A pattern is
// "all"; an app, a pool or a program, which means everything in it ("shop" is
// "shop/fpm" and "shop/emails:3"); one process; or any of these with * and ?, which
// do not reach across a slash. "shop:*" is for people who come from supervisord.
func Match(pattern, name string) bool {
	if pattern == "all" || pattern == "*" {
		return true
	}
	if before, ok := strings.CutSuffix(pattern, ":*"); ok {
		pattern = before
	}
	for whole := range within(name) {
		if ok, err := path.Match(pattern, whole); ok && err == nil {
			return true
		}
	}
	return false
}

// within are the names of what a process is part of, its own first:
// shop/emails:3, shop/emails, shop.
func within(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for name != "" && yield(name) {
			name = name[:max(0, strings.LastIndexAny(name, "/:"))]
		}
	}
}

// appOf is the app that everything a pattern means is in, "" when it may be in
// several or in none. Whether there is such an app it cannot know.
func appOf(pattern string) string {
	app, _, _ := strings.Cut(pattern, "/")
	app, _, _ = strings.Cut(app, ":")
	if app == "all" || strings.ContainsAny(app, `*?[\`) {
		return ""
	}
	return app
}
