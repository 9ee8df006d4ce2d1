// Uploads: every file that is dropped or chosen is sent by itself, in parts, by
// the tus protocol, with its progress. One that is cut goes on where it stopped,
// also after the page was closed: the browser remembers its address.
(() => {
  "use strict";
  const part = 8 << 20; // bytes of one request
  const tries = 6;
  const together = 2; // files at a time

  const encode = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const name = (file) => `inshape-upload ${file.name} ${file.size} ${file.lastModified}`;
  const recall = (file) => { try { return localStorage.getItem(name(file)); } catch { return null; } };
  const remember = (file, address) => { try { address ? localStorage.setItem(name(file), address) : localStorage.removeItem(name(file)); } catch { /* private windows */ } };

  class Refused extends Error { constructor(text, hint) { super(hint ? `${text}. ${hint}` : text); } }

  /** One request; progress is told as bytes go out. */
  function ask(method, address, header, body, progress) {
    return new Promise((done, fail) => {
      const r = new XMLHttpRequest();
      r.open(method, address);
      r.setRequestHeader("Tus-Resumable", "1.0.0");
      for (const [key, value] of Object.entries(header)) r.setRequestHeader(key, value);
      if (progress) r.upload.onprogress = (e) => progress(e.loaded);
      r.onload = () => {
        if (r.status < 300) { done(r); return; }
        let problem = {};
        try { problem = JSON.parse(r.responseText); } catch { /* not ours */ }
        const again = r.status >= 500 && r.status !== 507 || r.status === 409 || r.status === 423 || problem.code === "upload-cut";
        fail(Object.assign(again ? new Error(problem.detail || r.statusText) : new Refused(problem.detail || `the server answered ${r.status}`, problem.hint), { status: r.status }));
      };
      r.onerror = () => fail(new Error("no connection"));
      r.send(body || null);
    });
  }

  /** Sends a file and gives the model that it became. */
  async function send(file, unit, base, progress) {
    let address = recall(file), offset = -1, failed = 0;
    for (;;) {
      try {
        if (!address) {
          const fields = { name: file.name };
          if (unit) fields.unit = unit;
          const made = await ask("POST", base, { "Upload-Length": file.size, "Upload-Metadata": Object.entries(fields).map(([k, v]) => `${k} ${encode(v)}`).join(",") });
          address = made.getResponseHeader("Location");
          remember(file, address);
          offset = 0;
        }
        if (offset < 0) {
          const state = await ask("HEAD", address, {});
          offset = Number(state.getResponseHeader("Upload-Offset"));
          const model = state.getResponseHeader("Inshape-Model");
          if (model) { remember(file, null); return model; }
        }
        progress(offset);
        const answer = await ask("PATCH", address, { "Content-Type": "application/offset+octet-stream", "Upload-Offset": offset },
          file.slice(offset, offset + part), (sent) => progress(offset + sent));
        offset = Number(answer.getResponseHeader("Upload-Offset"));
        failed = 0;
        const model = answer.getResponseHeader("Inshape-Model");
        if (model) { remember(file, null); return model; }
      } catch (error) {
        if (error instanceof Refused) {
          const gone = address && (error.status === 404 || error.status === 410); // forgotten there: begin anew
          remember(file, null);
          if (!gone || failed > 0) throw error;
          address = null;
        }
        if (++failed > tries) throw error;
        offset = -1;
        progress(null, `${error.message}; trying again`);
        await wait(Math.min(1000 * 2 ** (failed - 1), 15000));
      }
    }
  }

  function size(n) { return n >= 1 << 20 ? (n / (1 << 20)).toFixed(1) + " MiB" : Math.max(1, Math.round(n / 1024)) + " KiB"; }

  function start(form) {
    const list = form.querySelector(".sending"), input = form.querySelector("input[type=file]");
    const zone = form.querySelector(".dropzone"), waiting = [];
    let running = 0, made = [], failed = 0;

    function next() {
      while (running < together && waiting.length) {
        running++;
        const job = waiting.shift();
        job().finally(() => { running--; next(); });
      }
      if (running || waiting.length || !made.length) return;
      // All are there: one model is opened, several are shown in the list.
      if (!failed) location.assign(made.length === 1 ? `/analysis/models/${made[0]}` : "/analysis/");
    }

    function take(files) {
      for (const file of files) {
        const item = document.createElement("li");
        item.innerHTML = '<div class="progress"><span></span><span></span><progress max="1" value="0"></progress></div>';
        const [title, state] = item.querySelectorAll("span"), bar = item.querySelector("progress");
        title.textContent = file.name;
        state.textContent = "waiting";
        bar.setAttribute("aria-label", file.name);
        list.append(item);
        const fail = (text) => {
          failed++;
          item.classList.add("bad");
          state.textContent = "";
          bar.remove();
          const line = document.createElement("p");
          line.className = "fault";
          line.textContent = text;
          item.append(line);
        };
        if (file.size > form.dataset.max * (1 << 20)) { fail(`This file has ${size(file.size)}; at most ${form.dataset.max} MiB are taken.`); continue; }
        if (!file.size) { fail("This file is empty; export it again."); continue; }
        waiting.push(async () => {
          try {
            const model = await send(file, form.querySelector("[name=unit]").value, form.dataset.uploads, (sent, text) => {
              if (sent !== null) bar.value = sent / file.size;
              state.textContent = text || `${size(sent)} of ${size(file.size)}`;
            });
            bar.value = 1;
            state.innerHTML = "";
            const link = document.createElement("a");
            link.href = `/analysis/models/${model}`;
            link.textContent = "Open";
            state.append(link);
            made.push(model);
          } catch (error) { fail(error.message); }
        });
      }
      next();
    }

    input.addEventListener("change", () => { take([...input.files]); input.value = ""; });
    // Files may be dropped anywhere on the page.
    addEventListener("dragover", (e) => { if (e.dataTransfer?.types.includes("Files")) { e.preventDefault(); zone.classList.add("over"); } });
    addEventListener("dragleave", (e) => { if (!e.relatedTarget) zone.classList.remove("over"); });
    addEventListener("drop", (e) => {
      if (!e.dataTransfer?.files.length) return;
      e.preventDefault();
      zone.classList.remove("over");
      take([...e.dataTransfer.files]);
    });
    form.addEventListener("submit", (e) => { if (!input.files.length) e.preventDefault(); });
  }

  document.querySelectorAll("form.upload").forEach(start);
})();
