package config

import (
	"fmt"
	"strings"

	"superd/release/beneath"
)

// EnvFile reads a file of KEY=value lines, as dotenv and systemd know them: blank
// lines and lines that begin with # or ; are comments, `export` in front is
// ignored, a value in '…' is taken as it is, in "…" the escapes \n \r \t \" \\ \$
// are read, and either may go over several lines. Behind a bare value, ` #`
// begins a comment. Nothing is expanded in a value. Of a key that occurs twice
// the last one counts. The error is *Problems, with every bad line.
func EnvFile(path string) (map[string]string, error) {
	text, _, err := contents(path)
	return parseEnv(path, text, err)
}

// ReadEnvFile reads the env_file of an app, whose path has no template in it any more. Who
// deploys may write below the app's root and has no more rights than that: a link of his
// which leads out of it is not followed, or root would read what he cannot.
func (a *App) ReadEnvFile(path string) (map[string]string, error) {
	if a.Root == "" || !beneath.Holds(a.Root, path) {
		return EnvFile(path)
	}
	f, err := beneath.Open(a.Root, path)
	if err != nil {
		return parseEnv(path, "", unreadable(err))
	}
	defer func() { _ = f.Close() }() // it was only read
	text, _, err := contentsOf(f)
	return parseEnv(path, text, err)
}

func parseEnv(path, text string, err error) (map[string]string, error) {
	if err != nil {
		return nil, &Problems{{File: path, Text: err.Error()}}
	}
	p := envParser{path: path, rest: strings.TrimPrefix(text, "\ufeff"), env: make(map[string]string)}
	for p.rest != "" {
		p.entry()
	}
	if len(p.problems) > 0 {
		return nil, &p.problems
	}
	return p.env, nil
}

type envParser struct {
	path     string
	rest     string
	line     int // of the entry in hand
	consumed int // line ends so far
	env      map[string]string
	problems Problems
}

// entry reads one line, or more where a quoted value has several.
func (p *envParser) entry() {
	p.line = p.consumed + 1
	line := p.takeLine()
	trimmed := strings.TrimLeft(line, " \t")
	if trimmed == "" || trimmed[0] == '#' || trimmed[0] == ';' {
		return
	}
	if after, ok := strings.CutPrefix(trimmed, "export"); ok && strings.TrimLeft(after, " \t") != after {
		trimmed = strings.TrimLeft(after, " \t")
	}
	name, value, found := strings.Cut(trimmed, "=")
	name = strings.TrimSpace(name)
	if !found {
		p.wrong("", "has no =; write KEY=value, or # in front of a comment")
		return
	}
	if !isEnvName(name) {
		p.wrong("", "%q cannot be the name of an environment variable: letters, digits and _ only, no digit first", short(name))
		return
	}
	text, ok := p.value(name, strings.TrimLeft(value, " \t"))
	if !ok {
		return
	}
	if strings.Contains(text, "\x00") {
		p.wrong(name, "has a NUL byte in it, which no environment can hold")
		return
	}
	p.env[name] = text
}

func (p *envParser) value(name, text string) (string, bool) {
	if text == "" || text[0] != '"' && text[0] != '\'' {
		return bareValue(text), true
	}
	end := closing(text[0], text[1:])
	if end < 0 {
		end = closing(text[0], p.rest)
		if end < 0 {
			p.wrong(name, "has a %c that is not closed", text[0])
			p.rest = ""
			return "", false
		}
		lines := 1 + strings.Count(p.rest[:end], "\n")
		end += len(text)
		text += "\n" + p.takeLines(lines)
	}
	end++
	if after := strings.TrimSpace(text[end+1:]); after != "" && after[0] != '#' {
		p.wrong(name, "has %q behind the closing quote", short(after))
		return "", false
	}
	if text[0] == '\'' {
		return text[1:end], true
	}
	return unescaped(text[1:end]), true
}

// takeLine takes the next line, without its end.
func (p *envParser) takeLine() string {
	line, rest, _ := strings.Cut(p.rest, "\n")
	p.rest = rest
	p.consumed++
	return strings.TrimSuffix(line, "\r")
}

// takeLines takes the next n lines, with the line ends between them.
func (p *envParser) takeLines(n int) string {
	text := p.rest
	for range n {
		p.takeLine()
	}
	return strings.TrimSuffix(text[:len(text)-len(p.rest)], "\n")
}

func (p *envParser) wrong(key, format string, args ...any) {
	p.problems = append(p.problems, Problem{File: p.path, Line: p.line, Column: 1, Key: key, Text: fmt.Sprintf(format, args...)})
}

// bareValue is a value without quotes: up to a # behind white space.
func bareValue(text string) string {
	for i := range len(text) {
		if text[i] == '#' && (i == 0 || text[i-1] == ' ' || text[i-1] == '\t') {
			text = text[:i]
			break
		}
	}
	return strings.TrimSpace(text)
}

// closing is where in text the quote is closed, -1 when it is not.
func closing(quote byte, text string) int {
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\' && quote == '"':
			i++
		case text[i] == quote:
			return i
		}
	}
	return -1
}

func unescaped(text string) string {
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\$`, `$`, "\\`", "`", `\n`, "\n", `\r`, "\r", `\t`, "\t").Replace(text)
}
