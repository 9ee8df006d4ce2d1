// What pages do beyond HTML. Everything works without it, a little less
// comfortably. It runs once for the page and again for what htmx brings in.
(() => {
  "use strict";

  // Tables become cards on a phone: each cell then needs the name of its
  // column, and the roles that "display: block" takes away.
  function label(table) {
    const names = [...table.querySelectorAll("thead th")].map((th) => th.textContent.trim());
    if (!names.length || table.classList.contains("wide")) return;
    table.setAttribute("role", "table");
    for (const part of table.querySelectorAll("thead, tbody")) part.setAttribute("role", "rowgroup");
    for (const row of table.rows) {
      row.setAttribute("role", "row");
      for (const cell of row.cells) {
        cell.setAttribute("role", cell.tagName === "TD" ? "cell" : cell.parentElement.parentElement.tagName === "THEAD" ? "columnheader" : "rowheader");
        if (cell.tagName === "TD" && !cell.dataset.label) cell.dataset.label = names[cell.cellIndex] || "";
      }
    }
    table.classList.add("labelled");
  }

  // Times are written in UTC; readers see their own zone.
  const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  function localise(time) {
    const at = new Date(time.dateTime);
    if (isNaN(at) || !time.dateTime.includes("T") || time.dataset.utc) return;
    time.dataset.utc = time.textContent;
    time.title = time.textContent;
    time.textContent = full.format(at);
  }

  function prepare(root) {
    root.querySelectorAll("table.table").forEach(label);
    root.querySelectorAll("time[datetime]:not([data-date])").forEach(localise);
  }

  function toast(text, kind) {
    const list = document.querySelector(".toasts");
    const one = document.createElement("div");
    one.className = "toast " + (kind || "");
    one.textContent = text;
    list.append(one);
    setTimeout(() => one.remove(), 6000);
  }

  document.addEventListener("click", async (event) => {
    const opener = event.target.closest("[data-opens]");
    if (opener) document.getElementById(opener.dataset.opens)?.showModal();
    const closer = event.target.closest("dialog [data-closes]");
    if (closer) closer.closest("dialog").close();
    const copier = event.target.closest("[data-copies]");
    if (copier) {
      try {
        await navigator.clipboard.writeText(document.getElementById(copier.dataset.copies).textContent.trim());
        toast("Copied");
      } catch { toast("Your browser does not allow copying here", "bad"); }
    }
    if (event.target.closest(".toast button")) event.target.closest(".toast").remove();
  });
  // A form that cannot be undone asks first.
  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.asks;
    if (question && !confirm(question)) { event.preventDefault(); event.stopImmediatePropagation(); }
  }, true);
  // A drop zone shows that it would take what is held over it, and names what it got.
  for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, (event) => event.target.closest?.(".dropzone")?.classList.add("over"));
  for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, (event) => event.target.closest?.(".dropzone")?.classList.remove("over"));

  // A link to a folded part unfolds it.
  function unfold() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  }
  window.addEventListener("hashchange", unfold);

  document.addEventListener("DOMContentLoaded", () => {
    prepare(document);
    unfold();
    document.body.addEventListener("htmx:load", (event) => prepare(event.detail.elt.parentElement || event.detail.elt));
    document.body.addEventListener("toast", (event) => {
      if (!event.target.hasAttribute("data-silent")) toast(event.detail.value ?? event.detail.text, event.detail.kind);
    });
    document.body.addEventListener("htmx:responseError", (event) => {
      // The server says what was wrong in HX-Trigger; who says nothing is told of here.
      if (!event.detail.elt.hasAttribute("data-silent") && !event.detail.xhr.getResponseHeader("HX-Trigger")) toast("That did not work: " + event.detail.xhr.status, "bad");
    });
    document.body.addEventListener("htmx:sendError", (event) => {
      if (!event.detail.elt.hasAttribute("data-silent")) toast("The server cannot be reached at the moment", "bad");
    });
    for (const one of document.querySelectorAll(".toast:not(.bad)")) setTimeout(() => one.remove(), 8000);
  });
})();
