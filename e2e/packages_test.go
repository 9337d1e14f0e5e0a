//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// packages are made as make packages makes them, of what is in the working tree: one in
// two directories, and a newer one to upgrade to.
type packages struct {
	dir      string
	old, new made
	again    made   // old, made elsewhere
	base     string // a clean root to install them in
}

// made are the packages of one version.
type made struct{ version, deb, rpm string }

const (
	packageCommit = "c0ffee1"
	packageDate   = "2026-01-02T03:04:05Z"
	packageEpoch  = "1767323045" // the same
)

// What make packages makes: what is in it, and what it does to the machine.
func TestPackages(t *testing.T) {
	p := newPackages(t)
	t.Run("the same bytes wherever and whenever", p.areReproducible)
	t.Run("Debian's own check says nothing", p.passLintian)
	t.Run("contents", p.haveContents)
	t.Run("the rpm has the same", p.areAlike)
	t.Run("on a clean root", p.liveOnACleanRoot)
	t.Run("as an rpm", p.liveAsRPM)
	t.Run("under systemd", p.liveUnderSystemd)
}

func newPackages(t *testing.T) *packages {
	dir, err := os.MkdirTemp("", "pk") //nolint:usetesting // its name is looked for in what is built
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	p := &packages{dir: dir}
	one, other := filepath.Join(dir, "one"), filepath.Join(dir, "another", "place")
	for _, dir := range []string{one, other} {
		if err := copyTree(dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range []struct {
		to                  *made
		dir, version, first string
	}{
		{&p.old, one, "1.0.0", "umask 022"},
		{&p.again, other, "1.0.0", "umask 077; export TZ=Asia/Tokyo LANG=C.UTF-8; find . -exec touch {} +"},
		{&p.new, one, "2.0.0", "umask 022"},
	} {
		if *m.to, err = makePackages(m.dir, m.version, m.first); err != nil {
			t.Fatal(err)
		}
	}
	p.base = filepath.Join(dir, "root")
	if err := bootstrap(p.base); err != nil {
		t.Fatal(err)
	}
	return p
}

// copyTree copies what git would take of the working tree, and the tool.
func copyTree(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	c := exec.Command("bash", "-c", `set -euo pipefail
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$TO"
mkdir "$TO/bin" && cp bin/nfpm "$TO/bin/"`)
	c.Dir, c.Env = "..", append(os.Environ(), "TO="+dir)
	if out, err := c.CombinedOutput(); err != nil {
		return errors.Join(err, errors.New("copy the working tree: "+string(out)))
	}
	return nil
}

func makePackages(dir, version, first string) (made, error) {
	c := exec.Command("bash", "-c", first+"; make packages VERSION="+version+" COMMIT="+packageCommit+" DATE="+packageDate)
	c.Dir, c.Env = dir, append(os.Environ(), "PACKAGE_VERSION="+version, "SOURCE_DATE_EPOCH="+packageEpoch)
	if out, err := c.CombinedOutput(); err != nil {
		return made{}, errors.Join(err, errors.New("make packages: "+string(out)))
	}
	m := made{version: version}
	for pattern, to := range map[string]*string{"/dist/superd_" + version + "_*.deb": &m.deb, "/dist/superd-" + version + "-1.*.rpm": &m.rpm} {
		found, err := filepath.Glob(dir + pattern)
		if err != nil || len(found) != 1 {
			return made{}, errors.New("make packages made no " + pattern)
		}
		*to = found[0]
	}
	return m, nil
}

func (p *packages) areReproducible(t *testing.T) {
	for _, pair := range [][2]string{{p.old.deb, p.again.deb}, {p.old.rpm, p.again.rpm}} {
		one, err := os.ReadFile(pair[0])
		if err != nil {
			t.Fatal(err)
		}
		other, err := os.ReadFile(pair[1])
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one, other) {
			t.Errorf("%s and %s differ", pair[0], pair[1])
		}
	}
}

func (p *packages) passLintian(t *testing.T) {
	out, err := exec.Command("lintian", "--allow-root", "--fail-on", "error,warning", p.old.deb).CombinedOutput()
	if said := strings.TrimSpace(string(out)); err != nil || said != "" {
		t.Errorf("lintian: %v\n%s", err, said)
	}
}

func (p *packages) haveContents(t *testing.T) {
	files := unpack(t, p.old.deb)
	for _, path := range []string{
		"/usr/bin/superd", "/usr/bin/superctl", "/usr/lib/superd/superd-keeper", "/usr/lib/superd/package-hook",
		"/usr/lib/systemd/system/superd.service", "/usr/lib/sysusers.d/superd.conf", "/usr/lib/tmpfiles.d/superd.conf",
		"/etc/superd/superd.toml", "/usr/share/man/man1/superctl-switch.1.gz", "/usr/share/man/man5/superd.toml.5.gz",
		"/usr/share/man/man8/superd.8.gz", "/usr/share/man/man8/superd-keeper.8.gz",
		"/usr/share/bash-completion/completions/superctl", "/usr/share/zsh/vendor-completions/_superctl",
		"/usr/share/fish/vendor_completions.d/superctl.fish", "/usr/share/doc/superd/packages.md",
	} {
		if len(files[path]) == 0 {
			t.Errorf("the package has no %s", path)
		}
	}
	for _, name := range []string{"/usr/bin/superd", "/usr/bin/superctl", "/usr/lib/superd/superd-keeper"} {
		p.isOurs(t, name, files)
	}
	nrconf := files["/etc/needrestart/conf.d/superd.conf"]
	perl := exec.Command("perl", "-we", "our %nrconf; "+string(nrconf)+` exit !grep { "superd.service" =~ /$_/ && !$nrconf{override_rc}{$_} } keys %{$nrconf{override_rc}};`)
	if out, err := perl.CombinedOutput(); err != nil {
		t.Errorf("needrestart would restart superd: %v %s\n%s", err, out, nrconf)
	}
	page, err := os.ReadFile("../docs/webservers.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nginx.conf", "apache.conf", "Caddyfile"} {
		example := files["/usr/share/doc/superd/examples/"+name]
		if len(bytes.TrimSpace(example)) == 0 || !bytes.Contains(page, append([]byte("\n"), append(example, "```\n"...)...)) {
			t.Errorf("%s is not an example of docs/webservers.md:\n%s", name, example)
		}
	}
}

// isOurs: static, nothing of the place where it was built, and each module that is
// compiled in has its licence told.
func (p *packages) isOurs(t *testing.T, name string, files map[string][]byte) {
	t.Helper()
	program := files[name]
	if bytes.Contains(program, []byte(p.dir)) {
		t.Errorf("%s tells where it was built", name)
	}
	if bytes.Contains(program, []byte("ld-linux")) {
		t.Errorf("%s needs a dynamic linker", name)
	}
	info, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	licences := string(files["/usr/share/doc/superd/copyright"])
	for _, module := range info.Deps {
		if !strings.Contains(licences, "==== "+module.Path+" "+module.Version+"\n") {
			t.Errorf("%s has %s %s compiled in, and no licence of it is told", name, module.Path, module.Version)
		}
	}
}

// unpack reads the regular files of a .deb.
func unpack(t *testing.T, deb string) map[string][]byte {
	t.Helper()
	archive, err := exec.Command("dpkg-deb", "--fsys-tarfile", deb).Output()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uname != "root" || header.Gname != "root" {
			t.Errorf("%s belongs to %s:%s", header.Name, header.Uname, header.Gname)
		}
		if header.Mode&0o022 != 0 {
			t.Errorf("%s has mode %o", header.Name, header.Mode)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(header.Name, ".")] = content
	}
}

// areAlike: the .rpm has what the .deb has, but for what only one of the two
// distributions knows.
func (p *packages) areAlike(t *testing.T) {
	if out, err := exec.Command("rpm", "-K", p.old.rpm).CombinedOutput(); err != nil {
		t.Errorf("rpm -K: %v %s", err, out)
	}
	out, err := exec.Command("rpm", "-qp", "--qf", "[%{FILEMODES:perms} %{FILENAMES}\n]", p.old.rpm).Output()
	if err != nil {
		t.Fatal(err)
	}
	var inRPM, inDEB []string
	for line := range strings.Lines(string(out)) {
		perms, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.HasPrefix(perms, "d") {
			inRPM = append(inRPM, strings.Replace(path, "/zsh/site-functions/", "/zsh/vendor-completions/", 1))
		}
	}
	inRPM = slices.DeleteFunc(inRPM, func(path string) bool { return path == "/usr/share/licenses/superd/Apache-2.0" })
	for path := range unpack(t, p.old.deb) {
		if !strings.HasPrefix(path, "/usr/share/lintian/") && !strings.HasPrefix(path, "/etc/needrestart/") {
			inDEB = append(inDEB, path)
		}
	}
	slices.Sort(inRPM)
	slices.Sort(inDEB)
	if !slices.Equal(inRPM, inDEB) {
		t.Errorf("the .rpm has %q\nthe .deb has %q", inRPM, inDEB)
	}
}
