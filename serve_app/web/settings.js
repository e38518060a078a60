// The form: what it says, whether that makes sense, and remembering it for the next visit.

import { Fault } from "./fault.js";
import { microphoneAllowed, microphones } from "./capture.js";
import { chunkMs, packetSamples } from "./funasr.js";
import { ownAddress, PROTOCOLS } from "./protocols.js";
import { socketUrl } from "./session.js";
import { TARGET_RATE } from "./audio.js";

const REMEMBERED = ["processed", "fast", "as-heard", "speakers", "hotwords", "chunk-size", "chunk-interval"];
const STORE = "asr-serve.live";
const MAX_FRAMES = 100;

const byId = (id) => document.getElementById(id);

/** Reads from the browser's store; a browser that keeps nothing is as good as an empty one. */
export function remembered() {
  try {
    return JSON.parse(localStorage.getItem(STORE)) ?? {};
  } catch {
    return {};
  }
}

export function remember(values) {
  try {
    localStorage.setItem(STORE, JSON.stringify({ ...remembered(), ...values }));
  } catch {
    return;
  }
}

export class Settings {
  constructor(texts) {
    this.texts = texts;
    this.form = byId("settings");
    this.file = null;
    this.restore();
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => this.changed());
    byId("address").addEventListener("input", () => this.changedAddress());
    byId("protocol").addEventListener("change", () => this.changedProtocol());
    byId("model").addEventListener("change", ({ target }) => this.changedModel(target.value));
    byId("file").addEventListener("change", ({ target }) => this.choose(target.files[0]));
    byId("address-reset").addEventListener("click", () => {
      byId("address").value = ownAddress(this.protocol);
      this.changedAddress();
      this.changed();
      byId("address").focus();
    });
    this.acceptDrops();
    this.show();
    this.listDevices();
    this.listModels();
  }

  restore() {
    const known = remembered().form ?? {};
    this.addresses = { ...known.addresses };
    this.model = known.model ?? "";
    if (known.protocol in PROTOCOLS) byId("protocol").value = known.protocol;
    byId("address").value = this.addressOf(this.protocol);
    for (const id of REMEMBERED) {
      const field = byId(id);
      if (known[id] === undefined) continue;
      if (field.type === "checkbox") field.checked = known[id];
      else field.value = known[id];
    }
    const token = new URLSearchParams(location.search).get("token");
    if (token) byId("token").value = token;
    for (const name of ["mode", "source"]) {
      if (known[name]) this.form.elements[name].value = known[name];
    }
    if (!microphoneAllowed()) this.form.elements.source.value = "file";
  }

  get protocol() {
    return byId("protocol").value;
  }

  /** Each protocol has an address of its own. */
  addressOf(protocol) {
    return this.addresses[protocol] ?? ownAddress(protocol);
  }

  changedProtocol() {
    byId("address").value = this.addressOf(this.protocol);
    this.changed();
  }

  /** Kept beside the form, which does not know the models before the server has told them. */
  changedModel(name) {
    this.model = name;
    this.changed();
  }

  /** An address that is only the default must go on following the page. */
  changedAddress() {
    const { value } = byId("address");
    if (value === ownAddress(this.protocol)) delete this.addresses[this.protocol];
    else this.addresses[this.protocol] = value;
  }

  changed() {
    const { mode, source } = this.form.elements;
    const { protocol, addresses, model } = this;
    const form = { mode: mode.value, source: source.value, protocol, addresses, model };
    for (const id of REMEMBERED) {
      const field = byId(id);
      form[id] = field.type === "checkbox" ? field.checked : field.value;
    }
    remember({ form });
    this.show();
  }

  /** What depends on the choices made. */
  show() {
    const microphone = this.form.elements.source.value === "microphone";
    byId("microphone-options").hidden = !microphone;
    byId("file-options").hidden = microphone;
    for (const id of ["model-field", "speakers-field"]) byId(id).hidden = this.protocol === "qwen";
    for (const element of document.querySelectorAll("[data-protocol]")) {
      element.hidden = element.dataset.protocol !== this.protocol;
    }
    byId("protocol-note").dataset.text = `${byId("protocol").selectedOptions[0].dataset.text}Note`;
    byId("protocol-note").textContent = this.texts.get(byId("protocol-note").dataset.text);
    const offline = this.offline;
    byId("fast").disabled = offline;
    byId("fast-note").dataset.text = offline ? "fastOffline" : "fastNote";
    byId("fast-note").textContent = this.texts.get(byId("fast-note").dataset.text);
    byId("address-reset").hidden = byId("address").value === ownAddress(this.protocol);
    byId("file-name").textContent = this.file ? this.file.name : this.texts.get("fileChoose");
    this.showChunks();
  }

  /** Whether there is one result after the end, so that nothing is gained by sending slowly. */
  get offline() {
    return this.protocol === "funasr" && this.form.elements.mode.value === "offline";
  }

  showChunks() {
    const valid = { "chunk-size": true, "chunk-interval": true };
    let note = "";
    try {
      const options = { chunkSize: this.chunkSize(), chunkInterval: this.chunkInterval() };
      const packet = Math.round((packetSamples(options) / TARGET_RATE) * 1000);
      note = this.texts.get("chunkNote", { chunk: chunkMs(options), packet });
    } catch (fault) {
      note = this.texts.get(`fault.${fault.key}`);
      valid[fault.key === "badChunk" ? "chunk-size" : "chunk-interval"] = false;
    }
    for (const [id, right] of Object.entries(valid)) byId(id).setAttribute("aria-invalid", !right);
    byId("chunk-note").textContent = note;
  }

  chunkSize() {
    const parts = byId("chunk-size").value.replace(/[[\]]/g, "").split(/[,，\s]+/).filter(Boolean).map(Number);
    const right = parts.length === 3 && parts.every((part) => Number.isInteger(part) && part >= 0 && part <= MAX_FRAMES);
    if (!right || parts[1] === 0) throw new Fault("badChunk");
    return parts;
  }

  chunkInterval() {
    const value = Number(byId("chunk-interval").value);
    if (!Number.isInteger(value) || value < 1 || value > 100) throw new Fault("badInterval");
    return value;
  }

  /** What a run needs to know. Throws a Fault for what cannot be used. */
  read() {
    const options = {
      protocol: this.protocol,
      source: this.form.elements.source.value,
      mode: this.form.elements.mode.value,
      deviceId: byId("device").value,
      processed: byId("processed").checked,
      file: this.file,
      realTime: !(byId("fast").checked || this.offline),
      asHeard: byId("as-heard").checked,
      speakers: byId("speakers").checked,
      hotwords: byId("hotwords").value.trim(),
      model: byId("model").value,
      ...(this.protocol === "funasr" ? { chunkSize: this.chunkSize(), chunkInterval: this.chunkInterval() } : {}),
      address: byId("address").value.trim(),
      token: byId("token").value.trim(),
    };
    socketUrl(options.address, "");
    return options;
  }

  choose(file) {
    if (!file) return;
    this.file = file;
    this.show();
  }

  acceptDrops() {
    const drop = byId("drop");
    const over = (inside) => drop.classList.toggle("over", inside);
    for (const type of ["dragover", "dragleave", "drop"]) {
      document.addEventListener(type, (event) => {
        if (!event.dataTransfer?.types.includes("Files")) return;
        event.preventDefault();
        over(type === "dragover");
        if (type !== "drop" || byId("file").matches(":disabled")) return;
        this.form.elements.source.value = "file";
        this.choose(event.dataTransfer.files[0]);
      });
    }
  }

  /** The models of the server that this page came from; without an answer, its default stays the choice. */
  async listModels() {
    const answer = await fetch(new URL("test/models.json", location.href)).catch(() => null);
    const { models = [] } = answer?.ok ? await answer.json() : {};
    const select = byId("model");
    select.append(...models.map((name) => new Option(name, name)));
    if (models.includes(this.model)) select.value = this.model;
  }

  async listDevices() {
    const select = byId("device");
    const chosen = select.value;
    const options = (await microphones()).filter(({ deviceId }) => deviceId !== "default");
    select.replaceChildren(select.options[0], ...options.map(({ deviceId, label }) => new Option(label, deviceId)));
    select.value = options.some(({ deviceId }) => deviceId === chosen) ? chosen : "";
  }
}
