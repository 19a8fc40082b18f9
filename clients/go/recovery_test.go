package guestsessions

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// failover passes connections on to the server, until it drops all that they carry without closing them, as when a
// network or a host has failed. New ones are passed on.
type failover struct {
	net.Listener
	generation atomic.Int64
}

func newFailover(t *testing.T, address string) *failover {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	f := &failover{Listener: listener}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", address)
			if err != nil {
				t.Error(err)
				return
			}
			generation := f.generation.Load()
			go f.carry(client, server, generation)
			go f.carry(server, client, generation)
		}
	}()
	return f
}

func (f *failover) carry(to, from net.Conn, generation int64) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		if err == nil && f.generation.Load() == generation {
			_, err = to.Write(buffer[:n])
		}
		if err != nil {
			_ = to.Close()
			return
		}
	}
}

func TestConnectionsThatAreDeadAreNotTriedInTurn(t *testing.T) {
	for name, isHTTP2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDouble(t)
			d.on(issuePath, d.signs(t, nil))
			server := httptest.NewUnstartedServer(d.Config.Handler)
			server.EnableHTTP2 = isHTTP2
			server.StartTLS()
			t.Cleanup(server.Close)
			f := newFailover(t, server.Listener.Addr().String())
			transport := server.Client().Transport.(*http.Transport)
			transport.MaxIdleConnsPerHost = 64
			d.URL = "https://" + f.Addr().String()
			s := sessions[map[string]any](t, d, Config{Transport: transport})
			arrive := func() (id string) {
				page := request("GET", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document")
				visit(s, page, func(guest *Guest[map[string]any], _ http.ResponseWriter) { id = guest.ID })
				return id
			}
			crowd := make(chan string)
			for range 10 {
				go func() { crowd <- arrive() }()
			}
			for range 10 {
				equal(t, "guest", <-crowd, "G-1")
			}

			f.generation.Add(1)

			begun := time.Now()
			for arrive() == "" {
				if time.Since(begun) > 20*time.Second {
					t.Fatal("still unavailable")
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
}
