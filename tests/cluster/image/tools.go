//go:build tools

// Package tools names the programs that the cluster suite compiles, so that go.mod lists what they need.
package tools

import (
	_ "github.com/GoogleContainerTools/kaniko/cmd/executor"
	_ "github.com/buildpacks/lifecycle/cmd/launcher"
	_ "github.com/buildpacks/lifecycle/cmd/lifecycle"
)
