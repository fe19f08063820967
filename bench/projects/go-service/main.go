// A service with real dependencies, used by the measurements: a CEL expression decides which Markdown is rendered.
package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"

	"github.com/google/cel-go/cel"
	"github.com/yuin/goldmark"
)

const revision = "0"

func main() {
	env, err := cel.NewEnv(cel.Variable("path", cel.StringType))
	if err != nil {
		panic(err)
	}
	ast, issues := env.Compile(`path.startsWith("/docs") && size(path) < 100`)
	if issues.Err() != nil {
		panic(issues.Err())
	}
	rule, err := env.Program(ast)
	if err != nil {
		panic(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		verdict, _, err := rule.Eval(map[string]any{"path": r.URL.Path})
		if err != nil || verdict.Value() != true {
			http.NotFound(w, r)
			return
		}
		var page bytes.Buffer
		if err := goldmark.Convert([]byte("# "+r.URL.Path+"\n"), &page); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "%s<!-- revision %s -->\n", page.Bytes(), revision)
	})
	fmt.Println(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}
