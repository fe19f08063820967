// The smallest service: what is left of a build when the compiler has little to do.
package main

import (
	"fmt"
	"net/http"
	"os"
)

const revision = "0"

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, revision) })
	fmt.Println(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}
