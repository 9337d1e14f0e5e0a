package fpm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"superd/release"
)

// Names in a server's directory.
const (
	confFile   = "fpm.conf"
	iniDir     = "ini.d"
	iniFile    = "superd.ini"
	webFile    = "web.sock"
	statusFile = "status.sock"
	placeFile  = "place.json"
)

// A place is where one server lives: the generation it runs and its directory. A
// restart of a generation is another server, with a place of its own.
type place struct {
	release.Generation
	App  string `json:"app"`
	Base string `json:"base"`           // of its directory: "7", "7-1" after a restart, "reload"
	Turn int    `json:"turn,omitempty"` // how often it was reloaded
	Home string `json:"home"`           // its directory
	// Where users reach it is a TCP address, and which seat there it has; or nothing
	// when it is the socket in its directory.
	Address string `json:"address,omitempty"`
	Seat    int    `json:"seat,omitempty"`
	// Crowd is how many workers the generation that served had when it was made: its
	// masters begin with as many, see prefork.go.
	Crowd int `json:"crowd,omitempty"`
}

// key is what PHP-FPM is told that a listener is called. It unlinks a socket by that
// name when it leaves, whatever is there by then; so it is a name that nothing has.
func (p *place) key(socket string) string { return "/nonexistent/superd/" + p.Base + "/" + socket }

// public is the key of the listener that users reach. Of an address PHP-FPM makes
// this key itself; there is nothing to unlink.
func (p *place) public() string {
	if at, ok := tcp(p.Address); ok {
		return fmt.Sprintf("%s:%d", at.Addr(), at.Port()) // without brackets, as PHP-FPM has it then
	}
	return p.key("web")
}

// section is what PHP-FPM calls the pool, in its log, in ps and on the status page. A
// reload changes it, so that one can see when it is over.
func (p *place) section() string {
	if p.Turn > 0 {
		return fmt.Sprintf("%s-%d.%d", p.App, p.Number, p.Turn)
	}
	return fmt.Sprintf("%s-%d", p.App, p.Number)
}

// pinFile is a name of its own after each reload: the workers of before read theirs
// until they are gone.
func (p *place) pinFile() string {
	if p.Turn > 0 {
		return fmt.Sprintf("pin-%d.php", p.Turn)
	}
	return "pin.php"
}

// socket is where only superd gets in, until it is published.
func (p *place) socket() string { return filepath.Join(p.Home, webFile) }

func (p *place) statusSocket() string { return filepath.Join(p.Home, statusFile) }

// write leaves word of who lives here.
func (p *place) write() error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return replace(filepath.Join(p.Home, placeFile), string(b), 0o644)
}

func readPlace(home string) (place, error) {
	b, err := os.ReadFile(filepath.Join(home, placeFile))
	if err != nil {
		return place{}, err
	}
	p := place{Home: home}
	if err := json.Unmarshal(b, &p); err != nil {
		return place{}, fmt.Errorf("read %s: %w", placeFile, err)
	}
	return p, nil
}
