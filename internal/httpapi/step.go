package httpapi

import (
	"bytes"
	"html/template"
	"strings"
	"sync"
)

// step is a page with one button: what a browser shows when only a click of the user may go on.
type step struct{ title, text string }

// The steps, by language.
var (
	stepSignIn = map[string]step{
		"en": {"Sign in with Google", "Another page has sent you here to sign in to FDC."},
		"ja": {"Google でログイン", "別のページから FDC のログインに移動しました。"},
	}
	stepConnect = map[string]step{
		"en": {"Connect Google", "Another page has sent you here to give FDC access to your Google Tasks and Calendar."},
		"ja": {"Google に接続", "別のページから、Google ToDo とカレンダーへのアクセスを FDC に許可する画面に移動しました。"},
	}
	stepReauthenticate = map[string]step{
		"en": {"Confirm with Google", "Confirm with Google that it is you. This holds for 10 minutes."},
		"ja": {"Google で確認", "ご本人であることを Google で確認してください。10 分間有効です。"},
	}
)

var stepPage = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("step").Parse(string(theSite().pages["console/step"].body)))
})

// step answers with a page whose button leads to a path of this server.
func (c *call) step(status int, texts map[string]step, to string) error {
	language := "en"
	if strings.HasPrefix(c.request().Header.Get("Accept-Language"), "ja") {
		language = "ja"
	}
	var page bytes.Buffer
	err := stepPage().Execute(&page, map[string]string{
		"Language": language, "Title": texts[language].title, "Text": texts[language].text, "To": to,
	})
	if err != nil {
		return err
	}
	c.policy = c.api.pagePolicy
	c.gin.Writer.Header()["Referrer-Policy"] = noReferrer
	return c.write(status, htmlMedia+"; charset=utf-8", page.Bytes())
}

// fromElsewhere reports whether a page of another origin caused the request, directly or by a redirect (Fetch Metadata,
// Sec-Fetch-Site). Clients that send no such header are let through: browsers all send it.
func (c *call) fromElsewhere() bool {
	switch c.request().Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return false
	default:
		return true
	}
}

// wantsPage reports whether a person looks at the answer: a navigation of a browser.
func (c *call) wantsPage() bool {
	accept := c.request().Header.Get("Accept")
	return !c.route.unsafe() && strings.Contains(accept, "text/html") && !strings.Contains(accept, "json")
}
