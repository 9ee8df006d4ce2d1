package shoptest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// visitor is somebody's browser: a profile of its own, with its own cookies.
type visitor struct {
	t   *testing.T
	ctx context.Context
	url string
}

// browse opens a browser at a shop. The distribution's package chromium has it.
func (s *shop) browse() *visitor {
	s.t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		s.t.Fatal("chromium is missing: apt-get install chromium (scripts/deps does)")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.UserDataDir(s.t.TempDir()), chromedp.WindowSize(1280, 1000),
		chromedp.Flag("use-angle", "swiftshader"), chromedp.Flag("enable-unsafe-swiftshader", true), chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true))
	allocator, closeAllocator := chromedp.NewExecAllocator(s.t.Context(), options...)
	ctx, closeBrowser := chromedp.NewContext(allocator)
	ctx, cancel := context.WithTimeout(ctx, 4*patience)
	s.t.Cleanup(func() {
		cancel()
		closeBrowser()
		closeAllocator()
	})
	return &visitor{t: s.t, ctx: ctx, url: s.url}
}

func (v *visitor) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	v.t.Helper()
	if err := chromedp.Do(v.ctx, actions...); err != nil {
		v.picture("failed")
		v.t.Fatalf("%s: %v", what, err)
	}
}

// asks evaluates an expression of JavaScript; a page that is just being left
// answers the zero value.
func asks[T any](v *visitor, expression string) T {
	answer, err := chromedp.Run(v.ctx, chromedp.Evaluate[T](expression))
	if v.ctx.Err() != nil {
		v.t.Fatalf("ask %s: %v", expression, err)
	}
	return answer
}

// sees waits until the page says something.
func (v *visitor) sees(texts ...string) {
	v.t.Helper()
	for _, text := range texts {
		v.waits(fmt.Sprintf("the page says %q", text), fmt.Sprintf("document.body.innerText.toLowerCase().includes(%q)", strings.ToLower(text)))
	}
}

// waits until an expression is true.
func (v *visitor) waits(what, expression string) {
	v.t.Helper()
	deadline := time.Now().Add(patience)
	for !asks[bool](v, expression) {
		if time.Now().After(deadline) {
			v.picture("failed")
			v.t.Fatalf("waited in vain at %s: %s; it says %q", v.path(), what, asks[string](v, "document.body.innerText"))
		}
		time.Sleep(50 * time.Millisecond) // the browser is asked, it does not tell
	}
}

// path is where the browser is.
func (v *visitor) path() string { return asks[string](v, "location.pathname") }

func (v *visitor) goes(path string) {
	v.t.Helper()
	v.do("go to "+path, chromedp.Navigate(v.url+path))
}

// clicks on something that can be seen. The page's own click() is used: a mouse
// that is moved from outside is not heard before the first paint, nor where the
// thing stood before letters and pictures came.
func (v *visitor) clicks(what string) {
	v.t.Helper()
	v.waits(what+" can be seen", fmt.Sprintf("document.readyState == 'complete' && !!document.querySelector(%q)?.checkVisibility()", what))
	v.do("click "+what, chromedp.Evaluate[chromedp.Void](fmt.Sprintf("document.querySelector(%q).click()", what)))
}

// picture keeps what the browser shows, in the folder INSHAPE_PICTURES if there is one.
func (v *visitor) picture(name string) {
	folder := os.Getenv("INSHAPE_PICTURES")
	if folder == "" {
		return
	}
	asks[bool](v, "document.getAnimations().forEach(a => a.finish()), true") // nothing half way
	png, err := chromedp.Run(v.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		v.t.Logf("picture %s: %v", name, err)
		return
	}
	if err := os.WriteFile(filepath.Join(folder, name+".png"), png, 0o644); err != nil {
		v.t.Logf("picture %s: %v", name, err)
	}
}

func (v *visitor) signsUp(name, email string) {
	v.t.Helper()
	v.goes("/sign-up")
	v.do("sign up",
		chromedp.SendKeys(chromedp.CSS("#name"), name), chromedp.SendKeys(chromedp.CSS("#email"), email), chromedp.SendKeys(chromedp.CSS("#password"), "a few words in a row"),
		chromedp.Submit(chromedp.CSS("#password")))
	v.waits("the account is made", `location.pathname == "/sign-in"`)
	v.signsIn(email, "a few words in a row")
	v.sees(name)
}

func (v *visitor) signsIn(email, password string) {
	v.t.Helper()
	v.goes("/sign-in")
	v.do("sign in", chromedp.SendKeys(chromedp.CSS(`input[name="email"]`), email), chromedp.SendKeys(chromedp.CSS(`input[name="password"]`), password), chromedp.Submit(chromedp.CSS(`input[name="password"]`)))
	v.sees("Sign out")
}

// A customer's whole way: a file, the verdict, the price, a quote, an order, and
// what becomes of it; and the shop's side of the same.
func TestFromFileToParcel(t *testing.T) {
	s := open(t, "analysis", "orders")
	part := filepath.Join(t.TempDir(), "bracket.stl")
	if err := os.WriteFile(part, bracket(), 0o600); err != nil {
		t.Fatal(err)
	}
	cleo := s.browse()
	cleo.signsUp("Cleo Customer", "cleo@example.test")
	cleo.goes("/analysis/")
	cleo.do("choose a file", chromedp.SetValue(chromedp.CSS("#unit"), "millimeter"), chromedp.SetUploadFiles(chromedp.CSS(`input[type="file"]`), []string{part}))
	cleo.sees("bracket.stl")
	cleo.waits("the model is there", `location.pathname.startsWith("/analysis/models/") || !!document.querySelector('a[href^="/analysis/models/"]')`)
	if !strings.HasPrefix(cleo.path(), "/analysis/models/") {
		cleo.clicks(`a[href^="/analysis/models/"]`)
	}
	cleo.sees("Verdicts", "printable", "Price", "40 × 30 × 20 mm")
	cleo.waits("the view in 3D", `!!document.querySelector("#viewer canvas")`)
	cleo.picture("model")
	cleo.clicks(`form[action="/analysis/quotes"] button.primary`)
	cleo.sees("Total", "Accept")
	cleo.picture("quote")
	cleo.clicks(`form.answer button.primary`)
	cleo.sees("Order it")
	cleo.clicks(`a[href^="/orders/new?quote="]`)
	cleo.sees("Place your order", "bracket.stl")
	cleo.do("place the order",
		chromedp.SetValue(chromedp.CSS("#line1"), "Ring 1"), chromedp.SetValue(chromedp.CSS("#postcode"), "1010"), chromedp.SetValue(chromedp.CSS("#city"), "Wien"), chromedp.SetValue(chromedp.CSS("#country"), "AT"),
		chromedp.SetValue(chromedp.CSS("#reference"), "PO 4711"))
	cleo.clicks(`form[action="/orders/new"] button.primary`)
	cleo.sees("Your order is placed", "PO 4711", "Cancel order")
	order := cleo.path()

	ada := s.browse()
	ada.signsIn(adminEmail, adminPassword)
	ada.goes("/orders/")
	ada.sees("Cleo Customer", "1 to confirm")
	ada.picture("work-list")
	ada.goes(order)
	ada.clicks(`form[action$="/confirm"] button`)
	ada.sees("The order is confirmed")
	for _, step := range []struct{ kind, says string }{{"made", "1 of 1 made"}, {"shipped", "1 shipped"}} {
		ada.do(step.kind, chromedp.SetValue(chromedp.CSS(`select[name="kind"]`), step.kind))
		ada.clicks(`form[action$="/events"] button`)
		ada.sees(step.says)
	}
	ada.do("write", chromedp.SendKeys(chromedp.CSS("#text"), "It is on its way."))
	ada.clicks(`form[action$="/comments"] button`)
	ada.sees("Sent")
	ada.picture("order")

	cleo.goes(order)
	cleo.sees("Shipped", "It is on its way.")
	cleo.picture("status")
	cleo.goes("/")
	cleo.sees("My orders")
	cleo.picture("home")
	t.Run("on a phone", func(t *testing.T) {
		for _, page := range []string{"/", "/analysis/", order} {
			cleo.do("hold it upright", chromedp.EmulateViewport(390, 844))
			cleo.goes(page)
			if asks[bool](cleo, "document.documentElement.scrollWidth > innerWidth") {
				t.Errorf("%s is wider than a phone", page)
			}
			cleo.picture("phone" + strings.ReplaceAll(strings.TrimRight(strings.TrimSuffix(page, strings.TrimPrefix(order, "/orders")), "/"), "/", "-"))
		}
	})
}

// A module that is not there is not shown; one that is down says so, and the
// rest works.
func TestModulesThatAreAwayOrDown(t *testing.T) {
	s := open(t, "orders")
	cleo := s.browse()
	cleo.signsUp("Cleo Customer", "cleo@example.test")
	navigation := asks[string](cleo, `document.querySelector("nav").innerText`)
	if !strings.Contains(navigation, "Orders") || strings.Contains(navigation, "Analysis") {
		t.Errorf("the navigation is %q", navigation)
	}
	cleo.goes("/orders/")
	cleo.sees("No orders yet", "New order")
	t.Run("an order by hand, on a phone", func(t *testing.T) {
		cleo.do("hold it upright", chromedp.EmulateViewport(390, 844))
		cleo.goes("/orders/new")
		for name, text := range map[string]string{"#part-0": "gear", "#material-0": "PA12", "#quantity-0": "2", "#name": "Cleo", "#line1": "Ring 1", "#city": "Wien", "#country": "AT", "#due": "2030-01-31"} {
			cleo.do("fill in "+name, chromedp.SetValue(chromedp.CSS(name), text))
		}
		cleo.picture("phone-new-order")
		cleo.clicks(`form[action="/orders/new"] button.primary`)
		cleo.sees("Your order is placed", "2 × PA12", "price to be agreed", "needed by 2030-01-31")
		cleo.picture("phone-order-by-hand")
		if asks[bool](cleo, "document.documentElement.scrollWidth > innerWidth") {
			t.Error("the order is wider than a phone")
		}
	})
	s.stop("orders")
	await(t, "the front notices", func() bool {
		cleo.goes("/")
		return strings.Contains(asks[string](cleo, "document.body.innerText"), "It does not answer at the moment")
	})
	s.start("orders")
	await(t, "the front notices", func() bool {
		cleo.goes("/orders/")
		return strings.Contains(asks[string](cleo, "document.body.innerText"), "Order 10001")
	})
}

// bracket is an L of 40 × 30 × 20 mm and 5 mm of wall, as ASCII STL.
func bracket() []byte {
	outline := [][2]float64{{0, 0}, {40, 0}, {40, 5}, {5, 5}, {5, 30}, {0, 30}}
	caps := [][3]int{{0, 1, 2}, {0, 2, 3}, {0, 3, 4}, {0, 4, 5}}
	var b strings.Builder
	facet := func(points ...[3]float64) {
		b.WriteString("facet normal 0 0 0\nouter loop\n")
		for _, p := range points {
			fmt.Fprintf(&b, "vertex %g %g %g\n", p[0], p[1], p[2])
		}
		b.WriteString("endloop\nendfacet\n")
	}
	at := func(i int, z float64) [3]float64 { return [3]float64{outline[i][0], outline[i][1], z} }
	b.WriteString("solid bracket\n")
	for _, c := range caps {
		facet(at(c[0], 0), at(c[2], 0), at(c[1], 0))
		facet(at(c[0], 20), at(c[1], 20), at(c[2], 20))
	}
	for i := range outline {
		j := (i + 1) % len(outline)
		facet(at(i, 0), at(j, 0), at(j, 20))
		facet(at(i, 0), at(j, 20), at(i, 20))
	}
	b.WriteString("endsolid bracket\n")
	return []byte(b.String())
}
