"use strict";
// Everything here is a convenience: each page works without it.

const say = (text) => { document.getElementById("said").textContent = text; };

// Copying. Over plain HTTP from another machine browsers have no clipboard, and the old way remains.
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "unseen";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

function offerCopies(root) {
  for (const button of root.querySelectorAll("button[data-copy]")) button.hidden = false;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  try {
    await copy(button.dataset.copy);
    button.classList.add("done");
    say("Copied");
    setTimeout(() => button.classList.remove("done"), 1500);
  } catch {
    say("The browser does not let it be copied");
  }
});

// Dark or light: the cookie is read by the server, so that pages never flash.
const theme = document.querySelector("[data-theme-switch]");
theme.hidden = false;
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  root.dataset.theme = isDark ? "light" : "dark";
  document.cookie = `adapterhub_theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=lax`;
});

// Filters are open where there is room for them.
const wide = matchMedia("(min-width: 60rem)");
for (const filters of document.querySelectorAll("[data-open-wide]")) {
  const follow = () => { filters.open = wide.matches; };
  follow();
  wide.addEventListener("change", follow);
}

// Long lists show their beginning.
for (const list of document.querySelectorAll("[data-fold]")) {
  const rest = [...list.children].slice(Number(list.dataset.fold));
  if (rest.length < 3) continue;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "plain more";
  button.textContent = `${rest.length} more`;
  for (const item of rest) item.hidden = true;
  button.addEventListener("click", () => {
    for (const item of rest) item.hidden = false;
    button.remove();
    rest[0].querySelector("a").focus();
  });
  list.after(button);
}

// The next page goes on in the same one.
document.addEventListener("click", async (event) => {
  const more = event.target.closest("a[data-more]");
  if (!more || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  more.setAttribute("aria-busy", "true");
  try {
    const response = await fetch(more.href);
    if (!response.ok) throw new Error(response.status);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const grid = document.querySelector("[data-grid]");
    const cards = [...page.querySelectorAll("[data-grid] > li")];
    grid.append(...cards);
    const next = page.querySelector("a[data-more]");
    if (next) more.replaceWith(next); else more.remove();
    say(`${cards.length} more adapters`);
    cards[0]?.querySelector("h2 a").focus({ preventScroll: true });
  } catch {
    location.href = more.href;
  }
});

// Tabs, of sections that stand one below the other otherwise.
for (const tabs of document.querySelectorAll("[data-tabs]")) {
  const panels = [...tabs.querySelectorAll(".tab")];
  const list = document.createElement("div");
  list.setAttribute("role", "tablist");
  list.setAttribute("aria-labelledby", "use");
  const buttons = panels.map((panel) => {
    const button = document.createElement("button");
    const title = panel.querySelector("h3");
    button.type = "button";
    button.id = `${panel.id}-tab`;
    button.textContent = title.textContent;
    button.setAttribute("role", "tab");
    button.setAttribute("aria-controls", panel.id);
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", button.id);
    title.remove();
    list.append(button);
    return button;
  });
  const show = (chosen) => panels.forEach((panel, place) => {
    panel.hidden = place !== chosen;
    buttons[place].setAttribute("aria-selected", String(place === chosen));
    buttons[place].tabIndex = place === chosen ? 0 : -1;
  });
  buttons.forEach((button, place) => {
    button.addEventListener("click", () => show(place));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = (place + step + buttons.length) % buttons.length;
      show(next);
      buttons[next].focus();
    });
  });
  tabs.prepend(list);
  show(0);
}

// Uploading, with a bar: the answer is the new version's page, or this one with what is wrong.
for (const form of document.querySelectorAll("form[data-upload]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const bar = form.querySelector("progress");
    const button = form.querySelector("button[type=submit]");
    const request = new XMLHttpRequest();
    const ready = (isReady, text) => {
      button.disabled = !isReady;
      button.textContent = text;
      bar.hidden = isReady;
    };
    request.upload.onprogress = (sent) => {
      bar.value = sent.loaded / sent.total;
      if (sent.loaded === sent.total) button.textContent = "Checking…";
    };
    request.onload = () => {
      if (new URL(request.responseURL).pathname !== "/upload") return location.assign(request.responseURL);
      const page = new DOMParser().parseFromString(request.responseText, "text/html");
      const told = page.querySelector("[role=alert]") ?? page.querySelector(".lead");
      ready(true, "Publish");
      form.parentElement.querySelector("[role=alert]")?.remove();
      const notice = document.createElement("p");
      notice.className = "notice wrong";
      notice.setAttribute("role", "alert");
      notice.textContent = told?.textContent ?? "The server failed.";
      form.before(notice);
      notice.scrollIntoView({ block: "center" });
    };
    request.onerror = () => {
      ready(true, "Publish");
      say("The connection was cut; nothing was published. Try again.");
    };
    request.open("POST", form.action);
    request.send(new FormData(form));
    ready(false, "Sending…");
  });
}

offerCopies(document);
