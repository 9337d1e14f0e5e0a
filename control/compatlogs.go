package control

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"
)

// Logs as supervisord gives them out: bytes at an offset. superd has lines; the file
// that supervisord would read from is here what superd still has of a process in
// memory and on disk, at most this many lines.
const compatLines = 10_000

// logMethods are those that read or clear logs.
func logMethods(all map[string]compatMethod) {
	for _, stream := range []string{"Stdout", "Stderr"} {
		channel := strings.ToLower(stream)
		read := compatMethod{func(q *request, p *params) (any, error) { return q.rpcRead(channel, p) }, false, "string string int int", "What a process wrote: length bytes from offset, or the last ones when offset is negative."}
		tail := compatMethod{func(q *request, p *params) (any, error) { return q.rpcTail(channel, p) }, false, "array string int int", "What a process wrote, to its end: text, the next offset, and whether something was skipped."}
		all["supervisor.readProcess"+stream+"Log"] = read
		all["supervisor.tailProcess"+stream+"Log"] = tail
		if channel == "stdout" {
			all["supervisor.readProcessLog"], all["supervisor.tailProcessLog"] = read, tail
		}
	}
	clear1 := compatMethod{(*request).rpcClear, true, "boolean string", "Empties the logs of a process."}
	all["supervisor.clearProcessLogs"], all["supervisor.clearProcessLog"] = clear1, clear1
	all["supervisor.clearAllProcessLogs"] = compatMethod{(*request).rpcClearAll, true, "array", "Empties the logs of every process."}
	main := compatMethod{(*request).rpcMain, false, "string int int", "superd's own log, which is where its output goes; it is not read here."}
	all["supervisor.readLog"], all["supervisor.readMainLog"] = main, main
	all["supervisor.clearLog"] = compatMethod{(*request).rpcMain, true, "boolean", "Not served: superd's own log is where its output goes."}
}

// rpcMain: superd writes its log to standard error and keeps no file.
func (q *request) rpcMain(p *params) (any, error) {
	p.values = nil
	return nil, fault(faultNoFile, "superd's own log is where its output goes, such as journalctl -u superd")
}

// written is what a process wrote to a stream.
func (q *request) written(one namedProcess, channel string) (string, error) {
	var b strings.Builder
	err := q.server.daemon.Logs(q.http.Context(), LogQuery{Name: one.order, Lines: compatLines, Stream: channel}, func(l LogLine) error {
		if l.Missed == 0 && l.Note == "" {
			b.WriteString(l.Line + "\n")
		}
		return nil
	})
	return b.String(), err
}

func (q *request) rpcRead(channel string, p *params) (any, error) {
	one, err := q.one(p)
	offset, length := p.number(), p.number()
	if err != nil || p.failed != nil {
		return nil, err
	}
	text, err := q.written(one, channel)
	if err != nil {
		return nil, err
	}
	return section(text, offset, length)
}

// section is supervisord's readFile.
func section(text string, offset, length int) (any, error) {
	switch {
	case offset < 0 && length != 0, offset >= 0 && length < 0:
		return nil, fault(faultBadArguments, "")
	case offset < 0:
		return whole(text[max(0, len(text)+max(offset, -len(text))):]), nil
	}
	text = text[min(offset, len(text)):]
	if length > 0 {
		text = text[:min(length, len(text))]
	}
	return whole(text), nil
}

// whole drops a character that an offset has cut in two.
func whole(text string) string {
	for text != "" && !utf8.RuneStart(text[0]) {
		text = text[1:]
	}
	return strings.ToValidUTF8(text, "\ufffd")
}

func (q *request) rpcTail(channel string, p *params) (any, error) {
	one, err := q.one(p)
	offset, length := p.number(), p.number()
	if err != nil || p.failed != nil {
		return nil, err
	}
	text, err := q.written(one, channel)
	if err != nil {
		return nil, err
	}
	return tailOf(text, offset, length), nil
}

// tailOf is supervisord's tailFile, oddities included.
func tailOf(text string, offset, length int) []any {
	size, overflow := len(text), false
	if size > offset+length {
		overflow, offset = true, size-1
	}
	if offset+length > size {
		if offset > size-1 {
			length = 0
		}
		offset = size - length
	}
	offset, length = max(0, offset), max(0, length)
	part := text[min(offset, size):min(offset+length, size)]
	return []any{whole(part), size, overflow}
}

func (q *request) rpcClear(p *params) (any, error) {
	one, err := q.one(p)
	if err != nil {
		return nil, err
	}
	if err := q.clear(one); err != nil {
		return nil, err
	}
	return true, nil
}

func (q *request) clear(one namedProcess) error {
	if err := q.may(RoleOperate, one.app); err != nil {
		return err
	}
	results, err := q.server.daemon.ClearLog(q.http.Context(), one.order, q.by())
	if err != nil {
		return asFault(err, one.spec())
	}
	for _, r := range results {
		if !r.OK {
			return fault(faultFailed, one.spec())
		}
	}
	return nil
}

func (q *request) rpcClearAll(*params) (any, error) {
	all, err := q.processes()
	if err != nil {
		return nil, err
	}
	results := []any{}
	for _, one := range all {
		results = append(results, one.result(q.clear(one)))
	}
	return results, nil
}

// tail streams what a process writes, as supervisorctl tail -f reads it:
// /logtail/NAME/stdout. It begins with the last lines.
func (q *request) tail() error {
	path := strings.TrimPrefix(q.http.URL.Path, logtail)
	name, channel, ok := path, "", false
	if at := strings.LastIndexByte(path, '/'); at >= 0 { // a name may have slashes
		name, channel, ok = path[:at], path[at+1:], true
	}
	if q.http.URL.Path == mainLogtail {
		return &Error{Kind: NotFound, Message: "superd's own log is where its output goes, such as journalctl -u superd"}
	}
	if q.http.Method != http.MethodGet || ok && channel != "stdout" && channel != "stderr" {
		return &Error{Kind: Usage, Message: "it is GET /logtail/NAME/stdout or /logtail/NAME/stderr"}
	}
	if q.mayAnywhere(RoleRead) != nil {
		return &Error{Kind: Denied, Message: q.lacks(RoleRead, "superd")}
	}
	one, err := q.one(&params{values: []any{name}})
	if err != nil {
		return &Error{Kind: NotFound, Message: "there is no process " + name}
	}
	leave, err := q.follow()
	if err != nil {
		return err
	}
	defer leave()
	q.begun = true
	q.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	q.w.WriteHeader(http.StatusOK)
	if err := q.send(nil); err != nil {
		return nil // it is gone
	}
	err = q.server.daemon.Logs(q.http.Context(), LogQuery{Name: one.order, Lines: 10, Follow: true, Stream: channel}, func(l LogLine) error {
		if l.Missed > 0 || l.Note != "" {
			return nil
		}
		return q.send([]byte(l.Line + "\n"))
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		q.server.log.Debug("tail ended", "process", one.order, "error", err)
	}
	return nil
}
