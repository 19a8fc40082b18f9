package guestsessions

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
)

// tokenHeader takes a new token to an application that sent the old one as a Bearer token.
const tokenHeader = "X-Guest-Token"

// response adds the guest's cookies just before the header is sent, unless the request failed.
type response struct {
	http.ResponseWriter
	sent      bool
	deletions []string // Set-Cookie lines, before the others
	cookies   []string // Set-Cookie lines
	bearer    string   // the new token, in place of cookies
	added     []string // the lines that the header has by now
}

// addGuest is repeatable: an error handler outside the middleware (echo's) may respond after it.
func (w *response) addGuest() {
	w.dropGuest()
	header := w.Header()
	w.added = slices.Concat(w.deletions, w.cookies)
	for _, line := range w.added {
		header.Add("Set-Cookie", line)
	}
	if w.bearer != "" {
		header.Set(tokenHeader, w.bearer)
	}
	if len(w.added) > 0 || w.bearer != "" {
		header.Set("Cache-Control", privately(header.Values("Cache-Control")))
	}
}

func (w *response) dropGuest() {
	header := w.Header()
	if w.bearer != "" {
		header.Del(tokenHeader)
	}
	if len(w.added) == 0 {
		return
	}
	others := slices.DeleteFunc(header.Values("Set-Cookie"), func(line string) bool { return slices.Contains(w.added, line) })
	header.Del("Set-Cookie")
	for _, line := range others {
		header.Add("Set-Cookie", line)
	}
}

// commit is called with the status before the header is sent. With a failure, the guest is as it was.
func (w *response) commit(status int) {
	if w.sent {
		return
	}
	w.sent = true
	if status >= 500 {
		w.dropGuest()
	} else {
		w.addGuest()
	}
}

// privately returns the Cache-Control that keeps a response with a guest's token out of shared caches.
func privately(lines []string) string {
	kept := []string{"private"}
	for directive := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		directive = strings.TrimSpace(directive)
		switch name, _, _ := strings.Cut(strings.ToLower(directive), "="); name {
		case "", "private", "public", "s-maxage":
		default:
			kept = append(kept, directive)
		}
	}
	return strings.Join(kept, ", ")
}

func (w *response) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols { // the others are informational
		w.commit(status)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(data []byte) (int, error) {
	w.commit(http.StatusOK)
	return w.ResponseWriter.Write(data)
}

// ReadFrom lets net/http send files without copying them.
func (w *response) ReadFrom(source io.Reader) (int64, error) {
	w.commit(http.StatusOK)
	return io.Copy(w.ResponseWriter, source)
}

// Flush is here for those who ask for an [http.Flusher].
func (w *response) Flush() {
	w.commit(http.StatusOK)
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack is here for those who ask for an [http.Hijacker].
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.sent = true
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Unwrap is here for [http.ResponseController].
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }
