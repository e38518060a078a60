// One recognition over the WebSocket protocol of FunASR's runtime: config, PCM packets, end, results.

import { Fault } from "./fault.js";
import { pause } from "./capture.js";

const CONNECT_TIMEOUT_MS = 10_000;
const HIGH_WATER_BYTES = 256 * 1024;

/** Some servers mark every sentence as the last one: more may follow, so wait this long for it. */
const GRACE_MS = 400;

/** The address as a URL with the token in it. Throws a Fault for what no browser could open. */
export function socketUrl(address, token) {
  let url;
  try {
    url = new URL(address);
  } catch {
    throw new Fault("badAddress", { address });
  }
  if (url.protocol === "http:") url.protocol = "ws:";
  if (url.protocol === "https:") url.protocol = "wss:";
  if (!["ws:", "wss:"].includes(url.protocol)) throw new Fault("badAddress", { address });
  const local = ["localhost", "127.0.0.1", "[::1]"].includes(url.hostname);
  if (location.protocol === "https:" && url.protocol === "ws:" && !local) {
    throw new Fault("mixedContent", { address });
  }
  if (token) url.searchParams.set("token", token);
  url.hash = "";
  return url;
}

export class Session {
  /** `onReply(message)` for every result, then once either `onFinished()` or `onFailed(fault)`. */
  constructor(url, config, { onReply, onFinished, onFailed }) {
    this.address = `${url.protocol}//${url.host}${url.pathname}`;
    this.onReply = onReply;
    this.onFinished = onFinished;
    this.onFailed = onFailed;
    this.queue = [JSON.stringify(config)];
    this.opened = false;
    this.ended = false;
    this.closed = false;
    this.socket = new WebSocket(url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.open();
    this.socket.onmessage = ({ data }) => this.receive(data);
    this.socket.onclose = (event) => this.lost(event);
    this.timer = setTimeout(() => this.fail(this.unreachable()), CONNECT_TIMEOUT_MS);
  }

  /** Sends text or PCM, as soon as the connection is there. */
  send(data) {
    if (this.closed) return;
    if (this.opened) this.socket.send(data);
    else this.queue.push(data);
  }

  /** Says that no more audio comes. The last result answers this. */
  end() {
    this.send(JSON.stringify({ is_speaking: false }));
    this.ended = true;
  }

  /** Leaves without waiting for anything. */
  abort() {
    this.closed = true;
    clearTimeout(this.timer);
    this.socket.close(1000);
  }

  /** Resolves when little enough waits in the browser for the network to take it. */
  async drained(signal) {
    while (!signal.aborted && !this.closed && (!this.opened || this.socket.bufferedAmount > HIGH_WATER_BYTES)) {
      await pause(10);
    }
  }

  open() {
    clearTimeout(this.timer);
    this.opened = true;
    for (const data of this.queue.splice(0)) this.socket.send(data);
  }

  receive(data) {
    if (this.closed) return;
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      this.fail(new Fault("notUnderstood", { address: this.address }));
      return;
    }
    if (message.error) {
      this.fail(new Fault("serverError", { reason: describe(message.error) }));
      return;
    }
    this.onReply(message);
    if (this.ended && (message.is_final || message.mode === "offline")) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.finish(), GRACE_MS);
      this.answered = true;
    }
  }

  lost({ code, reason }) {
    if (this.answered) this.finish();
    else if (!this.opened) this.fail(this.unreachable());
    else this.fail(new Fault(reason ? "closedWithReason" : "connectionLost", { code, reason }));
  }

  unreachable() {
    return new Fault(this.socket.url.startsWith("wss:") ? "unreachableSecure" : "unreachable", {
      address: this.address,
    });
  }

  finish() {
    if (this.closed) return;
    this.abort();
    this.onFinished();
  }

  fail(fault) {
    if (this.closed) return;
    this.abort();
    this.onFailed(fault);
  }
}

function describe(error) {
  return typeof error === "string" ? error : error.message ?? JSON.stringify(error);
}
