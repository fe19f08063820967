// Serve answers HTTP on $PORT (8080) with the files of the folder that it is started in.
package main

import (
	"log"
	"net/http"
	"os"
)

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	log.Fatal(http.ListenAndServe(":"+port, http.FileServer(http.Dir("."))))
}
