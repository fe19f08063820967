// Renders the Markdown that it is sent inside a page that is embedded in the binary.
package main

import (
	"bytes"
	"embed"
	"html/template"

	"ignite"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
)

//go:embed page.html
var pages embed.FS

func main() {
	page := template.Must(template.ParseFS(pages, "page.html"))
	render := goldmark.New(goldmark.WithExtensions(extension.GFM))
	ignite.Start(func(payload []byte, ctx *ignite.Context) ([]byte, error) {
		var body, out bytes.Buffer
		if err := render.Convert(payload, &body); err != nil {
			return nil, err
		}
		err := page.Execute(&out, template.HTML(body.String()))
		return out.Bytes(), err
	})
}
