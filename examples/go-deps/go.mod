module example.com/markdown

go 1.24

require (
	github.com/google/uuid v1.6.0
	github.com/yuin/goldmark v1.7.8
)
