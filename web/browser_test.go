package web_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"fdc/web"
)

// The tests in a browser need Chromium. Without it they are skipped, unless FDC_TEST_BROWSER is set, as in CI.
const needBrowser = "FDC_TEST_BROWSER"

// patience is for what only a broken program does not do.
const patience = 2 * time.Minute

// chromium starts the browser that the tests of a run share, without what it asks the network for by itself.
var chromium = sync.OnceValues(func() (context.Context, error) {
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		return nil, errors.New("no Chromium; on Debian: apt-get install chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.WindowSize(1280, 860),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-gpu", true),
		chromedp.Flag("lang", "en-US"))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it refuses to run as root with one
	}
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stop := chromedp.NewContext(allocator)
	closeBrowser = func() {
		stop()
		stopAllocator()
	}
	return ctx, chromedp.Do(ctx)
})

var closeBrowser = func() {}

// person is somebody at a browser of their own: cookies and storage are theirs alone.
type person struct {
	t    testing.TB
	ctx  context.Context //nolint:containedctx // it is the browser's tab
	base string

	mu   sync.Mutex
	said []string // by the page, as errors
}

func visit(tb testing.TB, base string) *person {
	tb.Helper()
	browser, err := chromium()
	if err != nil && os.Getenv(needBrowser) == "" {
		tb.Skip(err)
	}
	require.NoError(tb, err)
	p := &person{t: tb, base: base}
	ctx, leave := chromedp.NewContext(browser, chromedp.WithNewBrowserContext(), chromedp.WithListener(p.hear))
	tb.Cleanup(leave)
	require.NoError(tb, chromedp.Do(ctx)) // the tab lives as long as the context of its first action
	p.ctx = ctx
	tb.Cleanup(func() {
		if tb.Failed() {
			p.shot("failed")
			tb.Logf("the page says: %s\n%s", p.complaints(), p.textOf("body"))
		}
	})
	return p
}

// hear takes note of errors that nothing on the page has caught.
func (p *person) hear(ev any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch ev := ev.(type) {
	case *runtime.EventExceptionThrown:
		p.said = append(p.said, ev.ExceptionDetails.Text+" "+ev.ExceptionDetails.Exception.Description)
	case *runtime.EventConsoleAPICalled:
		if ev.Type == runtime.ConsoleAPICalledTypeError {
			p.said = append(p.said, "console.error")
		}
	}
}

// complaints are the errors that nothing on the page has caught.
func (p *person) complaints() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said
}

func try[T any](p *person, action chromedp.Action[T]) (T, error) {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, action)
}

func (p *person) do(what string, action chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	_, err := try(p, action)
	require.NoError(p.t, err, what)
}

func navigate(to string) chromedp.Action[chromedp.Void] { return chromedp.Navigate(to) }

// tab opens another page of the same browser.
func (p *person) tab() *person {
	p.t.Helper()
	other := &person{t: p.t, base: p.base}
	ctx, leave := chromedp.NewContext(p.ctx, chromedp.WithListener(other.hear))
	p.t.Cleanup(leave)
	require.NoError(p.t, chromedp.Do(ctx))
	other.ctx = ctx
	return other
}

// listen loads the client module into the page and notes in `heard` what it tells; of events those of people's tasks, whatever syncs
// are about in the background. Before is run first.
func (p *person) listen(before string) {
	p.t.Helper()
	value[bool](p, before+`;
		window.heard = { events: [], resyncs: [], statuses: [], status: "connecting" };
		window.byPeople = (event) => event.type.startsWith("fdc.task.") && event.source === "/fdc/api";
		import(`+quote(p.base+assetPath(p.t, "client-fdc"))+`).then(({ connect }) => {
			window.live = connect({
				pollEvery: 200,
				onEvent: (event) => { if (byPeople(event)) heard.events.push(event); },
				onResync: (reason) => heard.resyncs.push(reason),
				onStatus: (status) => { heard.statuses.push(status); heard.status = status; },
			});
			return true;
		})`)
}

// assetPath is where a module is served.
func assetPath(tb testing.TB, name string) string {
	tb.Helper()
	site, err := web.New()
	require.NoError(tb, err)
	for at := range site.Assets {
		if strings.HasPrefix(at, web.Prefix+name+".") {
			return at
		}
	}
	require.Fail(tb, "no asset", name)
	return ""
}

// signIn goes through Google's consent as somebody, to a view of the console.
func (p *person) signIn(email, view string) {
	p.t.Helper()
	p.do("sign in", chromedp.Navigate(p.base+"/api/auth/login?login_hint="+url.QueryEscape(email)+"&redirect=/"+url.QueryEscape("#"+view)))
	p.sees("#live", "Live")
}

// sees waits for an element that shows a text.
func (p *person) sees(selector, text string) {
	p.t.Helper()
	// What is hidden has an innerText, too.
	js := fmt.Sprintf(`[...document.querySelectorAll(%q)].some(e => e.checkVisibility() && ((e.value ?? "").includes(%q) || e.innerText.includes(%q)))`,
		selector, text, text)
	p.holds(js, fmt.Sprintf("%s shows %q", selector, text))
}

// holds waits for an expression to be true. The page looks by itself: questions from outside would cost more than all else.
func (p *person) holds(js, what string) {
	p.t.Helper()
	look := chromedp.Poll[bool]("(() => { try { return Boolean("+js+"); } catch { return false; } })()",
		chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(patience))
	require.Eventually(p.t, func() bool {
		is, err := try(p, look)
		return err == nil && is // between two pages there is none to ask
	}, patience, 20*time.Millisecond, what)
}

// value is what an expression gives, or what its promise does.
func value[T any](p *person, js string) T {
	p.t.Helper()
	v, err := try(p, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
	require.NoError(p.t, err, js)
	return v
}

func (p *person) textOf(selector string) string {
	text, _ := try(p, chromedp.Evaluate[string](fmt.Sprintf(`document.querySelector(%q)?.innerText ?? ""`, selector))) // for a message
	return text
}

// click clicks what is enabled and where a mouse would hit it. The click itself goes to the element, not to its place, which moves when the
// page draws something.
func (p *person) click(selector string) {
	p.t.Helper()
	element := `document.querySelector(` + quote(selector) + `)`
	p.holds(`(() => {
		const element = `+element+`;
		if (!element?.getClientRects().length || element.disabled) return false;
		element.scrollIntoView({ block: "nearest" });
		const { x, y, width, height } = element.getClientRects()[0];
		const hit = document.elementFromPoint(x + width / 2, y + height / 2);
		return element.contains(hit) || hit?.closest("label")?.control === element;
	})()`, selector+" can be clicked")
	value[bool](p, `(`+element+`.click(), true)`)
}

// fill puts a text into a field, as if it had been typed.
func (p *person) fill(selector, text string) {
	p.t.Helper()
	value[bool](p, fmt.Sprintf(`(() => {
		const field = document.querySelector(%q);
		field.value = %q;
		for (const type of ["input", "change"]) field.dispatchEvent(new Event(type, { bubbles: true }));
		return true;
	})()`, selector, text))
}

// goTo opens a view of the console.
func (p *person) goTo(view string) {
	p.t.Helper()
	p.click(`nav a[href="#` + view + `"]`)
	p.holds(`document.querySelector("nav a[aria-current]").getAttribute("href") === "#`+view+`"`, "the view "+view)
}

// look sets the window's size and the colours that the person likes.
func (p *person) look(width, height int64, scheme string) {
	p.t.Helper()
	p.do("resize", chromedp.EmulateViewport(width, height))
	command(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
}

// command tells the browser something about the page.
func command[P, R any](p *person, what cdp.Command[P, R], params P) {
	p.t.Helper()
	p.do(what.Method, func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, t, what, params)
		return chromedp.Void{}, err
	})
}

// shot keeps a picture of the page among the test's artifacts, if those are kept (go test -artifacts).
func (p *person) shot(name string) {
	if flag.Lookup("test.artifacts").Value.String() != "true" {
		return
	}
	picture, err := try(p, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(filepath.Join(p.t.ArtifactDir(), name+".png"), picture, 0o600)
	}
	if err != nil {
		p.t.Errorf("picture %s: %v", name, err)
	}
}

// forget lets the page keep nothing that it has loaded.
func (p *person) forget() {
	p.t.Helper()
	command(p, network.SetCacheDisabled, network.SetCacheDisabledParams{CacheDisabled: true})
}

// offline takes the page's network away, or gives it back. The command is an old one that the generated ones have left out; newer ones
// need a newer browser.
func (p *person) offline(away bool) {
	p.t.Helper()
	type conditions struct {
		Offline            bool    `json:"offline"`
		Latency            float64 `json:"latency"`
		DownloadThroughput float64 `json:"downloadThroughput"`
		UploadThroughput   float64 `json:"uploadThroughput"`
	}
	emulate := cdp.Command[conditions, cdp.Empty]{Method: "Network.emulateNetworkConditions"}
	command(p, emulate, conditions{Offline: away, DownloadThroughput: -1, UploadThroughput: -1})
}
