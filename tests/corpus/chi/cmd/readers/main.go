// A service of its own on $PORT, one of two programs of this module.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
)

func main() {
	router := chi.NewRouter()
	router.Use(middleware.StripSlashes)
	router.Get("/readers/{count:[0-9]+}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s has %s readers", r.URL.Query().Get("name"), chi.URLParam(r, "count"))
	})
	log.Fatal(http.ListenAndServe(":"+os.Getenv("PORT"), router))
}
