package main

import (
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/labstack/echo/v4"
)

type middleware = func(http.Handler) http.Handler

// routers make the same application with each router, the guests' middleware put in as its documents say.
var routers = map[string]func(map[string]handle, middleware) http.Handler{
	"net-http": func(routes map[string]handle, guests middleware) http.Handler {
		mux := http.NewServeMux()
		for pattern, handle := range routes {
			mux.Handle(pattern, plain(handle))
		}
		return guests(mux)
	},
	"chi": func(routes map[string]handle, guests middleware) http.Handler {
		router := chi.NewRouter()
		router.Use(guests)
		for pattern, handle := range routes {
			method, path, _ := strings.Cut(pattern, " ")
			router.Method(method, path, plain(handle))
		}
		return router
	},
	"echo": func(routes map[string]handle, guests middleware) http.Handler {
		router := echo.New()
		router.Use(echo.WrapMiddleware(guests))
		for pattern, handle := range routes {
			method, path, _ := strings.Cut(pattern, " ")
			router.Add(method, path, func(c echo.Context) error {
				value, err := handle(c.Response(), c.Request())
				return respond(c.Response(), value, err) // echo responds to the error, outside its middleware
			})
		}
		return router
	},
	"gin": func(routes map[string]handle, guests middleware) http.Handler {
		gin.SetMode(gin.ReleaseMode)
		router := gin.New()
		for pattern, handle := range routes {
			method, path, _ := strings.Cut(pattern, " ")
			router.Handle(method, path, gin.WrapH(plain(handle)))
		}
		return guests(router)
	},
}

func plain(handle handle) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		value, err := handle(w, r)
		if err = respond(w, value, err); err != nil {
			http.Error(w, "failed", http.StatusInternalServerError)
		}
	})
}
