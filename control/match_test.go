package control

import "testing"

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"all", "nginx:0", true},
		{"*", "shop/emails:3", true},
		{"shop", "shop/emails:3", true},
		{"shop", "shop/fpm", true},
		{"shop", "shop2/fpm", false},
		{"shop", "shop", true},
		{"shop/*", "shop/emails:3", true},
		{"shop/*", "shop/fpm", true},
		{"shop/*", "blog/fpm", false},
		{"shop/emails", "shop/emails:3", true},
		{"shop/emails", "shop/emails2:3", false},
		{"shop/emails:3", "shop/emails:3", true},
		{"shop/emails:3", "shop/emails:30", false},
		{"shop/emails:3", "shop/emails", false}, // a pool is more than one of its workers
		{"shop/emails:*", "shop/emails:3", true},
		{"shop:*", "shop/emails:3", true},
		{"shop/e*", "shop/emails:3", true},
		{"*/emails", "blog/emails:0", true},
		{"*/fpm", "shop/emails:0", false},
		{"nginx", "nginx:0", true},
		{"ngin?", "nginx:0", true},
		{"nginx", "nginx-exporter:0", false},
		{"emails", "shop/emails:3", false},
		{"", "shop/fpm", false},
		{"[", "shop/fpm", false},
		{"shop/../blog", "blog/fpm", false},
	} {
		if got := Match(tt.pattern, tt.name); got != tt.want {
			t.Errorf("Match(%q, %q) = %v", tt.pattern, tt.name, got)
		}
	}
}

// What appOf says must be the app of everything that the pattern means: a role for
// one app must not reach into another.
func TestAppOfIsTheAppOfAllThatMatches(t *testing.T) {
	names := []string{"shop/fpm", "shop/emails:0", "shop2/fpm", "blog/emails:3", "nginx:0", "all/fpm", "s/fpm"}
	for _, pattern := range []string{
		"shop", "shop/*", "shop/emails", "shop/emails:0", "shop:*", "shop/e*", "*", "all", "s*", "?hop", "*/fpm",
		"sh[op]p/fpm", `sh\op/fpm`, "[s]hop", "shop/", "/", "", ":*", "nginx:0", "all/*", "all:*",
	} {
		app := appOf(pattern)
		for _, name := range names {
			if app != "" && Match(pattern, name) && appOf(name) != app {
				t.Errorf("%q is said to be in %q and matches %q", pattern, app, name)
			}
		}
	}
	for pattern, want := range map[string]string{"shop": "shop", "shop/emails:3": "shop", "shop:*": "shop", "all": "", "*": "", "sh*p/x": "", "nginx:0": "nginx"} {
		if got := appOf(pattern); got != want {
			t.Errorf("appOf(%q) = %q, want %q", pattern, got, want)
		}
	}
}
