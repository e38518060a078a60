// One run of the page: a source of audio, a session that recognizes it, and the clock between the two.

import { decodeFile, openMicrophone, sendSamples } from "./capture.js";
import { TARGET_RATE } from "./audio.js";
import { Fault } from "./fault.js";
import { Session, socketUrl } from "./session.js";

const FRAME_MS = 60;

/** Samples of one packet: FunASR's clients send `chunk_interval` packets per chunk. */
export function packetSamples({ chunkSize, chunkInterval }) {
  return Math.max(1, Math.round((FRAME_MS * chunkSize[1] * TARGET_RATE) / chunkInterval / 1000));
}

export class Run {
  /**
   * `hooks`: `phase(name)` with connecting, listening, sending, finishing, done or failed, `packet(samples)`,
   * `reply(message)`, `measured()` when a latency is known, `failed(fault)`.
   */
  constructor(options, hooks) {
    this.options = options;
    this.hooks = hooks;
    this.samplesSent = 0;
    this.firstTextMs = null;
    this.firstTextSince = null;
    this.finalMs = null;
    this.abortion = new AbortController();
  }

  /** How much audio has been sent, in milliseconds. */
  get heardMs() {
    return (this.samplesSent / TARGET_RATE) * 1000;
  }

  async start() {
    this.hooks.phase("connecting");
    try {
      if (this.options.source === "microphone") await this.startMicrophone();
      else await this.startFile();
    } catch (error) {
      this.fail(error instanceof Fault ? error : new Fault("unexpected", { reason: String(error) }));
    }
  }

  async startMicrophone() {
    const microphone = await openMicrophone({
      deviceId: this.options.deviceId,
      processed: this.options.processed,
      packetSamples: packetSamples(this.options),
      onPacket: (packet) => this.packet(packet),
      onLost: () => this.stop(),
    });
    this.microphone = microphone;
    if (this.abortion.signal.aborted) {
      await microphone.stop();
      return;
    }
    this.connect();
    this.hooks.phase("listening");
  }

  async startFile() {
    const { file, realTime } = this.options;
    if (!file) throw new Fault("noFile");
    this.connect();
    const samples = await decodeFile(file);
    if (!samples.length) throw new Fault("fileEmpty", { name: file.name });
    await this.session.drained(this.abortion.signal);
    if (this.over) return;
    this.hooks.phase("sending");
    this.begun = performance.now();
    await sendSamples(samples, {
      packetSamples: packetSamples(this.options),
      realTime,
      session: this.session,
      onPacket: (packet) => this.packet(packet),
      signal: this.abortion.signal,
    });
    await this.end();
  }

  connect() {
    const { address, token, mode, chunkSize, chunkInterval } = this.options;
    const config = {
      mode,
      chunk_size: chunkSize,
      chunk_interval: chunkInterval,
      encoder_chunk_look_back: 4,
      decoder_chunk_look_back: 1,
      wav_name: this.options.source === "file" ? this.options.file.name : "microphone",
      wav_format: "pcm",
      audio_fs: TARGET_RATE,
      itn: true,
      is_speaking: true,
    };
    this.session = new Session(socketUrl(address, token), config, {
      onReply: (message) => this.reply(message),
      onFinished: () => this.finish(),
      onFailed: (fault) => this.fail(fault),
    });
    for (const packet of this.early ?? []) this.session.send(packet);
    this.early = null;
  }

  packet(packet) {
    if (this.over) return;
    this.begun ??= performance.now() - (packet.length / TARGET_RATE) * 1000;
    this.samplesSent += packet.length;
    // Level and clock read the packet before the socket takes it.
    this.hooks.packet(packet);
    if (this.session) this.session.send(packet);
    else (this.early ??= []).push(packet);
  }

  reply(message) {
    const now = performance.now();
    if (message.text && this.firstTextMs === null) {
      const paced = this.options.source === "microphone" || this.options.realTime;
      const partial = message.mode !== "offline" && message.mode !== "2pass-offline";
      const known = paced && partial && Number.isFinite(message.start_time);
      this.firstTextMs = Math.max(0, now - this.begun - (known ? message.start_time : 0));
      this.firstTextSince = known ? "speech" : "audio";
    }
    if (this.endedAt !== undefined) this.finalMs = now - this.endedAt;
    this.hooks.reply(message);
  }

  /** Ends the audio and waits for the last result; a second call waits no longer. */
  async stop() {
    if (this.over) return;
    if (this.endedAt !== undefined || !this.session) this.cancel();
    else if (this.microphone) await this.end();
    else this.abortion.abort();
  }

  async end() {
    if (this.over || this.ending) return;
    this.ending = true;
    this.hooks.phase("finishing");
    await this.releaseMicrophone();
    if (this.over) return;
    this.session.end();
    this.endedAt = performance.now();
  }

  async releaseMicrophone() {
    const { microphone } = this;
    this.microphone = null;
    await microphone?.stop();
  }

  finish() {
    this.close("done");
  }

  cancel() {
    this.session?.abort();
    this.close("cancelled");
  }

  fail(fault) {
    if (this.over) return;
    this.session?.abort();
    this.close("failed");
    this.hooks.failed(fault);
  }

  close(phase) {
    if (this.over) return;
    this.over = true;
    this.abortion.abort();
    this.releaseMicrophone();
    this.hooks.phase(phase);
  }
}
