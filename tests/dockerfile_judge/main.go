// The judge: BuildKit's own parser over Dockerfiles read from a tar on stdin; a JSON line for each.
package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

type verdict struct {
	Name   string   `json:"name"`
	Parse  string   `json:"parse"`
	Instr  string   `json:"instructions"`
	Line   int      `json:"line"`
	Names  []string `json:"names"`
	Stages []string `json:"stages"`
}

func lineOf(err error) int {
	var located *parser.LocationError
	if errors.As(err, &located) && len(located.Locations) > 0 && len(located.Locations[0]) > 0 {
		return located.Locations[0][0].Start.Line
	}
	return 0
}

func judge(name string, data []byte) (v verdict) {
	v.Name = name
	defer func() {
		if r := recover(); r != nil {
			v.Parse = fmt.Sprint("panic: ", r)
		}
	}()
	result, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		v.Parse = err.Error()
		v.Line = lineOf(err)
		return
	}
	for _, node := range result.AST.Children {
		v.Names = append(v.Names, fmt.Sprintf("%d %s", node.StartLine, node.Value))
	}
	stages, _, err := instructions.Parse(result.AST, nil)
	if err != nil {
		v.Instr = err.Error()
		v.Line = lineOf(err)
		return
	}
	for _, stage := range stages {
		v.Stages = append(v.Stages, stage.BaseName+" AS "+stage.Name)
	}
	return
}

func main() {
	archive, out := tar.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		header, err := archive.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			panic(err)
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			panic(err)
		}
		if err := out.Encode(judge(header.Name, data)); err != nil {
			panic(err)
		}
	}
}
