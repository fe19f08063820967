module example.com/render

go 1.24

require github.com/yuin/goldmark v1.7.13
