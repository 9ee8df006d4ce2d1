// Shows what others change, every few seconds, while the page is looked at and
// nobody is about to press a button on the board. Without it the page works as well.
const pause = 4000;

async function refresh() {
  const board = document.getElementById("board");
  if (document.hidden || board.matches(":focus-within") || board.matches(":active")) return;
  try {
    const response = await fetch("/", { headers: { Accept: "text/html" } });
    if (!response.ok) return;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.getElementById("board");
    if (fresh && fresh.innerHTML !== board.innerHTML) board.replaceChildren(...fresh.childNodes);
  } catch {
    // The next time, perhaps.
  }
}

setInterval(refresh, pause);
