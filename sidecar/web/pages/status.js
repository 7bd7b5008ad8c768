"use strict";
// Asks for this page again and takes over what has changed; without it the page is whole too, and reloads itself.
(() => {
  const live = document.getElementById("live");
  const form = document.getElementById("owner");
  let token = "", fails = 0, timer = 0, turn = 0;

  // Only what differs is exchanged: what a person reads, has marked or has focused stays where it is.
  function take(old, now) {
    if (old.isEqualNode(now)) return;
    const same = old.nodeType === 1 && now.nodeType === 1 && old.tagName === now.tagName && old.id === now.id;
    if (!same) return old.replaceWith(document.importNode(now, true));
    for (const { name } of [...old.attributes]) if (!now.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of now.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const before = [...old.childNodes], after = [...now.childNodes];
    after.forEach((child, n) =>
      before[n] ? take(before[n], child) : old.appendChild(document.importNode(child, true)));
    before.slice(after.length).forEach((child) => child.remove());
  }

  function say(text) {
    if (live.textContent !== text) live.textContent = text;
  }

  const head = () => document.querySelector("#verdict strong").textContent;

  async function refresh() {
    clearTimeout(timer);
    const mine = ++turn;
    const asked = token;
    let every = document.documentElement.dataset.every * 1000;
    try {
      const headers = { Accept: "text/html" };
      if (asked) headers.Authorization = "Bearer " + asked;
      const reply = await fetch(location.href, { headers, cache: "no-store", signal: AbortSignal.timeout(15000) });
      const text = await reply.text();
      if (mine !== turn) return;
      if (reply.status === 429) {
        token = "";
        say("Too many wrong tokens; try again in a minute.");
      } else if (!(reply.headers.get("content-type") || "").startsWith("text/html") || !reply.ok) {
        throw new Error(reply.status);
      } else {
        const fresh = new DOMParser().parseFromString(text, "text/html");
        const content = fresh.getElementById("content");
        if (!content) throw new Error("another page");
        let said = "That is not the API token.";
        if (asked && fresh.documentElement.dataset.names !== "yes") {
          token = "";
        } else {
          said = asked ? "File names are shown." : "";
        }
        document.title = fresh.title;
        document.documentElement.dataset.every = fresh.documentElement.dataset.every;
        const before = head();
        take(document.getElementById("content"), content);
        say(head() === before ? said : head());
        every = fresh.documentElement.dataset.every * 1000;
      }
      fails = 0;
    } catch (error) {
      if (mine !== turn) return;
      fails = Math.min(fails + 1, 6);
      say("No answer: this is how it was. Trying again.");
    }
    if (mine === turn) timer = setTimeout(refresh, every * 2 ** fails * (0.9 + Math.random() / 5));
  }

  if (form) {
    form.hidden = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      token = document.getElementById("token").value.trim();
      document.getElementById("token").value = "";
      refresh();
    });
  }
  document.addEventListener("visibilitychange", () => document.hidden ? clearTimeout(timer) : refresh());
  timer = setTimeout(refresh, document.documentElement.dataset.every * 1000);
})();
