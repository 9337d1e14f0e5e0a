package control

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Users of the tests; nothing else has these numbers.
const (
	reader   = 54001
	deployer = 54002 // of the app shop, as a member of a supplementary group
	operator = 54003 // of everything, by primary group
	chief    = 54004 // admin
	shopRoot = 54005 // admin of the app shop alone
	nobody   = 54006
	group    = 54100
	team     = 54101
)

var testRules = []Rule{
	{User: new(uint32(reader)), Role: RoleRead},
	{Group: new(uint32(group)), Role: RoleOperate, Apps: []string{"shop"}},
	{Group: new(uint32(team)), Role: RoleOperate},
	{User: new(uint32(chief)), Role: RoleAdmin},
	{User: new(uint32(shopRoot)), Role: RoleAdmin, Apps: []string{"shop"}},
}

var testUsers = map[string]*syscall.Credential{
	"root":     {Uid: 0, Gid: 0},
	"reader":   {Uid: reader, Gid: reader},
	"deployer": {Uid: deployer, Gid: deployer, Groups: append(manyGroups(), group)},
	"operator": {Uid: operator, Gid: team},
	"chief":    {Uid: chief, Gid: chief},
	"shopRoot": {Uid: shopRoot, Gid: shopRoot},
	"nobody":   {Uid: nobody, Gid: nobody, Groups: []uint32{reader, chief}}, // groups with numbers of users
}

// manyGroups are more than fit into the first guess.
func manyGroups() []uint32 {
	var groups []uint32
	for n := range uint32(200) {
		groups = append(groups, 60000+n)
	}
	return groups
}

// TestRoles lets real processes of other users ask for everything, and compares with
// this table: who may what.
func TestRoles(t *testing.T) {
	needRoot(t)
	h := newHouse(t, testRules...)
	all := []string{"root", "reader", "deployer", "operator", "chief", "shopRoot", "nobody"}
	forShop := []string{"root", "reader", "deployer", "operator", "chief", "shopRoot"}
	forBlog := []string{"root", "reader", "operator", "chief"}
	changeShop := []string{"root", "deployer", "operator", "chief", "shopRoot"}
	changeAll := []string{"root", "operator", "chief"}
	table := []struct {
		method, path, body string
		may                []string
	}{
		{"GET", "/v1/health", "", all},
		{"GET", "/v1/status", "", forShop},
		{"GET", "/v1/events", "", forShop},
		{"GET", "/v1/apps/shop/history", "", forShop},
		{"GET", "/v1/apps/blog/history", "", forBlog},
		{"GET", "/v1/apps/nosuch/history", "", forBlog}, // whether it is there is not for others to know
		{"GET", "/v1/logs/shop/fpm", "", forShop},
		{"GET", "/v1/logs/blog/fpm", "", forBlog},
		{"GET", "/v1/logs/all", "", forBlog},
		{"POST", "/v1/apps/shop/hold", "{}", changeShop},
		{"POST", "/v1/apps/blog/hold", "{}", changeAll},
		{"POST", "/v1/apps/shop/switch", `{"release":"r2","dry_run":true}`, changeShop},
		{"POST", "/v1/apps/blog/switch", `{"release":"r2","dry_run":true}`, changeAll},
		{"POST", "/v1/apps/shop%2f..%2fblog/hold", "{}", changeAll},
		{"POST", "/v1/processes/shop/emails:3/restart", "{}", changeShop},
		{"POST", "/v1/processes/shop%2Femails:3/restart", "{}", changeShop},
		{"POST", "/v1/processes/blog/emails/stop", "{}", changeAll},
		{"POST", "/v1/processes/nginx/stop", "{}", changeAll},
		{"POST", "/v1/processes/all/stop", "{}", changeAll},
		{"POST", "/v1/processes/sho*/stop", "{}", changeAll},
		{"POST", "/v1/processes/*/emails/stop", "{}", changeAll},
		{"POST", "/v1/superd/upgrade", "{}", []string{"root", "chief"}},
		{"POST", "/v1/config/reload", "{}", []string{"root", "chief"}},
		{"POST", "/v1/config/reload?plan=1", "{}", []string{"root", "chief"}},
		{"POST", "/v1/superd/shutdown", "{}", []string{"root", "chief"}},
	}
	var args []string
	for _, row := range table {
		args = append(args, row.method, row.path, row.body)
	}
	for name, user := range testUsers {
		out, err := inMood(t, "ask", h.socket, user, args...).Output()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		answers := strings.Split(strings.TrimSpace(string(out)), "\n")
		if len(answers) != len(table) {
			t.Fatalf("%s got %d answers to %d questions:\n%s", name, len(answers), len(table), out)
		}
		for i, row := range table {
			denied := strings.HasPrefix(answers[i], "403 ")
			if denied == slices.Contains(row.may, name) {
				t.Errorf("%s: %s %s: %s", name, row.method, row.path, answers[i])
			}
		}
	}
	refused := h.log.with("uid", nobody)
	if len(refused) != len(table)-1 {
		t.Errorf("%d refusals of nobody are in the log, want %d", len(refused), len(table)-1)
	}
	for _, field := range []string{"uid", "pid", "user", "route", "error"} {
		if len(refused) > 0 && refused[0][field] == nil {
			t.Errorf("a refusal is logged without %s: %v", field, refused[0])
		}
	}
}

// Who may see one app sees nothing of others, nor how many they are.
func TestStatusShowsOnlyWhatMayBeSeen(t *testing.T) {
	needRoot(t)
	h := newHouse(t, testRules...)
	h.events.Append(Event{Kind: "test.shop", App: "shop"})
	h.events.Append(Event{Kind: "test.blog", App: "blog"})
	h.events.Append(Event{Kind: "test.superd"})
	eventually(t, "the events are there", func() bool { return h.events.Last() == 3 })
	ask := []string{"GET", "/v1/status", "", "GET", "/v1/events", "", "GET", "/v1/health", ""}
	secrets := []string{"blog", "nginx", "test.superd"}
	for name, sees := range map[string]bool{"reader": true, "deployer": false, "shopRoot": false, "nobody": false} {
		out, err := inMood(t, "ask", h.socket, testUsers[name], ask...).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range secrets {
			if strings.Contains(string(out), secret) != sees {
				t.Errorf("%s sees %s: %v, in\n%s", name, secret, !sees, out)
			}
		}
		if name != "nobody" && !strings.Contains(string(out), "test.shop") {
			t.Errorf("%s does not see what he may see:\n%s", name, out)
		}
		healthy := name != "reader" && name != "nobody" // shop is well
		if strings.Contains(string(out), `{"healthy":true`) != healthy {
			t.Errorf("%s is told of the health of what is not his:\n%s", name, out)
		}
	}
}

func TestWithoutRulesOthersCannotConnect(t *testing.T) {
	needRoot(t)
	h := newHouse(t)
	out, err := inMood(t, "ask", h.socket, testUsers["nobody"], "GET", "/v1/health", "").Output()
	if err != nil || !strings.Contains(string(out), "may not connect") {
		t.Errorf("nobody got %s (%v)", out, err)
	}
	if status, _, _ := h.ask("POST", "/v1/apps/shop/hold", "{}"); status != 200 {
		t.Errorf("superd's own user got %d", status)
	}
}

func TestRolesInclude(t *testing.T) {
	for i, r := range roles {
		for j, needed := range roles {
			if r.includes(needed) != (i >= j) {
				t.Errorf("%s includes %s: %v", r, needed, r.includes(needed))
			}
		}
		if Role("").includes(r) || Role("root").includes(r) {
			t.Errorf("a role that there is not includes %s", r)
		}
	}
	mine := grantTo(Peer{UID: nobody, GID: 1}, []Rule{{User: new(uint32(nobody)), Role: "owner"}, {Role: RoleAdmin}})
	if got := mine.anywhere(); got != RoleAny {
		t.Errorf("rules that make no sense give %s", got)
	}
	if !(Peer{UID: uint32(os.Geteuid())}).isOwner() {
		t.Error("superd's own user is not its owner")
	}
}
