package config

import "slices"

// finishAccess reads who may do what, now that the apps are known.
func (in *reading) finishAccess() {
	var apps []string
	for _, n := range in.apps {
		apps = append(apps, n.name)
	}
	for _, n := range in.access {
		var a Access
		n.read(accessKeys(&a))
		if _, isTable := n.value.(map[string]any); !isTable {
			continue
		}
		checkAccess(n, &a, apps)
		in.config.Access = append(in.config.Access, a)
	}
}

func checkAccess(n node, a *Access, apps []string) {
	switch {
	case n.has("user") && n.has("group"):
		n.wrong("has both user and group; write one [[access]] for each")
	case !n.has("user") && !n.has("group"):
		n.missing("group", `the group, or the user, that gets the role, such as group = "deploy"`)
	case n.at("user").value == "" || n.at("group").value == "":
		n.wrong("names nobody; name a user or a group")
	}
	if !n.has("role") {
		n.missing("role", `"read", "operate" or "admin"`)
	}
	if a.Apps != nil && len(a.Apps) == 0 {
		n.at("apps").wrong("is empty, and gives the role for no app; leave it out for all apps")
	}
	for i, name := range a.Apps {
		if !slices.Contains(apps, name) && !n.in.broken {
			n.at("apps").item(i, name).wrong("there is no app `%s`; %s", short(name), suggest(name, apps))
		}
	}
}
