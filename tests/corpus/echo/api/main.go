// A service on $PORT: its own module and another one of the workspace, the page embedded.
package main

import (
	"embed"
	"html/template"
	"net/http"
	"os"

	"example.com/greet"
	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
)

//go:embed pages
var pages embed.FS

func main() {
	page := template.Must(template.ParseFS(pages, "pages/*.html"))
	e := echo.New()
	e.HideBanner = true
	e.Use(middleware.Recover(), middleware.RemoveTrailingSlash())
	e.GET("/", func(c echo.Context) error {
		c.Response().Header().Set(echo.HeaderContentType, echo.MIMETextHTMLCharsetUTF8)
		return page.Execute(c.Response(), c.QueryParam("name"))
	})
	e.POST("/greet/:name", func(c echo.Context) error {
		return c.JSON(http.StatusCreated, echo.Map{"said": greet.To(c.Param("name"))})
	})
	e.GET("/panic", func(c echo.Context) error { panic("on purpose") })
	e.Logger.Fatal(e.Start(":" + os.Getenv("PORT")))
}
