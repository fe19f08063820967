// A module with dependencies: Markdown in, HTML out.
package main

import (
	"bytes"

	"ignite"

	"github.com/google/uuid"
	"github.com/yuin/goldmark"
)

func main() {
	space := uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	ignite.Start(func(payload []byte, ctx *ignite.Context) ([]byte, error) {
		var out bytes.Buffer
		if err := goldmark.Convert(payload, &out); err != nil {
			return nil, err
		}
		out.WriteString("<!-- " + uuid.NewSHA1(space, payload).String() + " -->\n")
		return out.Bytes(), nil
	})
}
