package control

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// A route is one thing that can be asked for.
type route struct {
	method string
	path   string // {app} is one segment; {name...} is one or more, or one with %2F in it; then the parameters there are
	role   Role
	answer func(*request) error
}

// changes tells whether asking for it is worth a line in the log.
func (r route) changes() bool { return r.method == http.MethodPost }

// parameters are the names that may be behind the question mark.
func (r route) parameters() []string {
	_, names, _ := strings.Cut(r.path, "?")
	return strings.FieldsFunc(names, func(c rune) bool { return c == '&' })
}

// routes is all that can be asked for. For a path with {app} in it the role is
// needed for that app, for one with {name...} for the app that the name is in.
var routes = []route{
	{"GET", "/v1/health", RoleAny, (*request).health},
	{"GET", "/v1/status?name", RoleRead, (*request).status},
	{"GET", "/v1/metrics", RoleRead, (*request).metrics},
	{"GET", "/v1/events?since&follow", RoleRead, (*request).events},
	{"GET", "/v1/logs/{name...}?lines&follow&stream&since&until&mark", RoleRead, (*request).logs},
	{"POST", "/v1/logs/{name...}/clear", RoleOperate, (*request).clearLog},

	{"GET", "/v1/apps/{app}/releases", RoleRead, (*request).releases},
	{"GET", "/v1/apps/{app}/history", RoleRead, (*request).history},
	{"GET", "/v1/apps/{app}/switch", RoleRead, (*request).current},
	{"POST", "/v1/apps/{app}/switch", RoleOperate, (*request).switchTo},
	{"POST", "/v1/apps/{app}/rollback", RoleOperate, (*request).rollback},
	{"POST", "/v1/apps/{app}/abort", RoleOperate, (*request).abort},
	{"POST", "/v1/apps/{app}/hold", RoleOperate, (*request).hold},
	{"POST", "/v1/apps/{app}/resume", RoleOperate, (*request).resume},

	{"POST", "/v1/processes/{name...}/start", RoleOperate, (*request).start},
	{"POST", "/v1/processes/{name...}/stop", RoleOperate, (*request).stop},
	{"POST", "/v1/processes/{name...}/restart", RoleOperate, (*request).restart},
	{"POST", "/v1/processes/{name...}/signal", RoleOperate, (*request).signal},
	{"POST", "/v1/processes/{name...}/scale", RoleOperate, (*request).scale},
	{"POST", "/v1/processes/{name...}/reload", RoleOperate, (*request).reloadProcess},
	{"GET", "/v1/processes/{name...}/attach", RoleRead, (*request).attach},
	{"POST", "/v1/processes/{name...}/stdin", RoleOperate, (*request).input},

	{"POST", "/v1/superd/upgrade", RoleAdmin, (*request).upgrade},
	{"POST", "/v1/config/reload?plan", RoleAdmin, (*request).reload},
	{"POST", "/v1/superd/shutdown", RoleAdmin, (*request).shutdown},
}

// find is the route for a method and an escaped path, and the names in it.
func find(method, path string) (route, map[string]string, error) {
	var allowed []string
	for _, r := range routes {
		names, ok := fits(r.path, path)
		switch {
		case ok && r.method == method:
			return r, names, nil
		case ok:
			allowed = append(allowed, r.method)
		}
	}
	if len(allowed) > 0 {
		slices.Sort(allowed)
		all := strings.Join(slices.Compact(allowed), ", ")
		return route{}, nil, &Error{Kind: WrongMethod, Message: fmt.Sprintf("%s does not take %s", path, method), Hint: "it takes " + all, allow: all}
	}
	return route{}, nil, &Error{Kind: NotFound, Message: fmt.Sprintf("there is no %s", path), Hint: "there is: " + everything()}
}

func everything() string {
	var all []string
	for _, r := range routes {
		all = append(all, r.method+" "+r.path)
	}
	return strings.Join(all, ", ")
}

// fits compares segment by segment. A name takes all but the segments behind it.
func fits(pattern, path string) (map[string]string, bool) {
	pattern, _, _ = strings.Cut(pattern, "?")
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	names := map[string]string{}
	for i, segment := range want {
		name, isName := strings.CutPrefix(segment, "{")
		several := strings.HasSuffix(name, "...}")
		take := 1
		if several {
			take = len(have) - len(want) + 1
		}
		if take < 1 || len(have) < i+take {
			return nil, false
		}
		if !isName && have[i] != segment {
			return nil, false
		}
		if isName {
			text, err := url.PathUnescape(strings.Join(have[i:i+take], "/"))
			if err != nil || text == "" {
				return nil, false
			}
			names[strings.TrimRight(name, ".}")] = text
		}
		have = slices.Delete(have, i, i+take-1) // one segment each from here on
	}
	return names, len(have) == len(want)
}
