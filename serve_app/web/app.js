// The page: connects the form, the runs and the view.

import { decibels, levels, Meter } from "./meter.js";
import { preferredLanguage, LANGUAGES, Texts } from "./i18n.js";
import { Fault } from "./fault.js";
import { Hotwords } from "./hotwords.js";
import { microphoneAllowed } from "./capture.js";
import { remember, remembered, Settings } from "./settings.js";
import { Run } from "./run.js";
import { Transcript } from "./transcript.js";
import { View } from "./view.js";

/** Where the near-field filter of the server begins by default (share of full scale), and how long to wait. */
const QUIET_RMS = 0.01;
const QUIET_AFTER_MS = 4_000;

const byId = (id) => document.getElementById(id);

class App {
  constructor() {
    const stored = remembered();
    this.texts = new Texts(stored.language in LANGUAGES ? stored.language : preferredLanguage());
    this.view = new View(this.texts);
    this.transcript = new Transcript();
    this.run = null;
    this.meter = new Meter(byId("wave"), byId("level"));
    this.settings = new Settings(this.texts);
    this.setTheme(stored.theme ?? "auto");
    this.view.translate(null);
    this.settings.show();
    if (!microphoneAllowed()) this.view.showNotice(new Fault("insecureContext", { origin: location.origin }));
    this.listen();
  }

  listen() {
    byId("start").addEventListener("click", () => (this.view.running ? this.run.stop() : this.start()));
    byId("copy").addEventListener("click", () => this.copy());
    byId("srt").addEventListener("click", () => this.download());
    byId("clear").addEventListener("click", () => this.clear());
    byId("theme").addEventListener("change", ({ target }) => this.setTheme(target.value));
    for (const button of document.querySelectorAll("[data-language]")) {
      button.addEventListener("click", () => this.setLanguage(button.dataset.language));
    }
    navigator.mediaDevices?.addEventListener("devicechange", () => this.settings.listDevices());
    window.addEventListener("pagehide", () => this.run?.cancel());
  }

  start() {
    this.clear();
    this.view.showNotice(null);
    let options;
    try {
      options = this.settings.read();
    } catch (fault) {
      this.view.showNotice(fault);
      return;
    }
    this.loudest = 0;
    const hotwords = new Hotwords();
    this.view.showHotwords(hotwords);
    this.run = new Run(options, {
      phase: (phase) => this.phase(phase),
      packet: (packet) => this.packet(packet, options),
      partial: ({ text }) => this.told(() => (this.transcript.partial = text)),
      final: (sentence) => this.told(() => this.transcript.add(sentence, this.run.heardMs)),
      hotwords: (report) => {
        hotwords.add(report);
        this.view.showHotwords(hotwords);
      },
      failed: (fault) => this.view.showNotice(fault),
    });
    this.run.start();
  }

  phase(phase) {
    this.view.showPhase(phase);
    this.view.showReadouts(this.run);
    if (phase === "listening") this.settings.listDevices();
    if (phase === "finishing") this.view.showHint(null);
    if (phase === "done") this.view.emptyText("nothingHeard");
  }

  packet(packet, { source }) {
    this.meter.push(packet);
    this.view.showReadouts(this.run);
    if (source !== "microphone" || this.view.phase !== "listening") return;
    this.loudest = Math.max(this.loudest, levels(packet).rms);
    const quiet = this.loudest < QUIET_RMS && this.run.heardMs > QUIET_AFTER_MS;
    if (quiet === Boolean(this.view.hinted)) return;
    const values = { level: Math.round(decibels(this.loudest)), limit: Math.round(decibels(QUIET_RMS)) };
    this.view.showHint(quiet ? { key: "quiet", values } : null);
  }

  told(change) {
    change();
    this.view.showTranscript(this.transcript);
    this.view.showReadouts(this.run);
  }

  clear() {
    this.transcript = new Transcript();
    if (!this.view.running) {
      this.run = null;
      this.meter.reset();
      this.view.showHint(null);
    }
    this.view.emptyText("empty");
    this.view.showTranscript(this.transcript);
    this.view.showReadouts(this.run);
  }

  async copy() {
    const copied = await writeClipboard(this.transcript.text(this.texts));
    const button = byId("copy");
    this.view.showHint(copied ? null : { key: "copyFailed", values: {} });
    if (!copied) return;
    button.textContent = this.texts.get("copied");
    setTimeout(() => (button.textContent = this.texts.get("copy")), 1500);
  }

  download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([this.transcript.srt(this.texts)], { type: "application/x-subrip" }));
    const name = this.run?.options.source === "file" ? this.run.options.file.name : "live";
    link.download = `${name.replace(/\.[^.]*$/, "")}.srt`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  setLanguage(language) {
    this.texts.language = language;
    remember({ language });
    this.view.translate(this.run);
    this.view.showTranscript(this.transcript);
    this.settings.show();
  }

  setTheme(theme) {
    byId("theme").value = theme;
    document.documentElement.dataset.theme = theme;
    remember({ theme });
    this.meter.draw();
  }
}

/** Copies; true if it worked. The clipboard of a page that came over plain http is reached the old way. */
async function writeClipboard(text) {
  if (navigator.clipboard && window.isSecureContext) {
    const written = await navigator.clipboard.writeText(text).then(
      () => true,
      () => false,
    );
    if (written) return true;
  }
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "offscreen";
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}

new App();
