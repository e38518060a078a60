// OpenAI's Realtime API: a transcription session, in which the server detects the sentences.

import { newId, Session, socketUrl } from "./session.js";
import { TARGET_RATE } from "./audio.js";
import { changesOf, speakerOf } from "./speakers.js";
import { number } from "./words.js";

const TRANSCRIPTION = "conversation.item.input_audio_transcription.";

/** What the name of a subprotocol may consist of (RFC 7230, "token"). */
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

export class OpenaiSession extends Session {
  name = "OpenAI Realtime";
  commit = newId();
  /** Items by id: their text so far, and when they begin and end. */
  items = new Map();
  committed = new Set();
  updates = 0;

  /** Browsers' WebSockets have no headers: OpenAI takes the key as the name of a subprotocol. */
  target({ address, token }) {
    const carried = TOKEN.test(token);
    const key = carried ? [`openai-insecure-api-key.${token}`] : [];
    return { url: socketUrl(address, carried ? "" : token), subprotocols: ["realtime", ...key] };
  }

  /** OpenAI's clients ask for speakers by the model. */
  get model() {
    const name = this.options.model || "gpt-4o-transcribe";
    return this.options.speakers ? `${name}-diarize` : name;
  }

  update() {
    const input = {
      format: { type: "audio/pcm", rate: TARGET_RATE },
      transcription: {
        model: this.model,
        ...(this.options.asHeard ? { delay: "low" } : {}),
        ...(this.options.hotwords ? { hotwords: this.options.hotwords } : {}),
      },
      turn_detection: { type: "server_vad" },
    };
    return { type: "session.update", session: { type: "transcription", audio: { input } } };
  }

  hello() {
    return [this.update()];
  }

  audio(samples) {
    const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
    return { type: "input_audio_buffer.append", audio: btoa(String.fromCharCode(...bytes)) };
  }

  /** Nothing in the protocol ends a session. Its answer to a second update follows all that was committed. */
  farewell() {
    return [{ type: "input_audio_buffer.commit", event_id: this.commit }, this.update()];
  }

  take(message) {
    switch (message.type) {
      case "session.updated":
        this.updates += 1;
        this.started();
        break;
      case "input_audio_buffer.speech_started":
        this.item(message).begin = number(message.audio_start_ms);
        break;
      case "input_audio_buffer.speech_stopped":
        this.item(message).end = number(message.audio_end_ms);
        break;
      case "input_audio_buffer.committed":
        this.committed.add(message.item_id);
        break;
      case `${TRANSCRIPTION}delta`:
        this.partial(this.item(message), message);
        break;
      case `${TRANSCRIPTION}segment`:
        this.segment(this.item(message), message);
        break;
      case `${TRANSCRIPTION}completed`:
        this.tellHotwords(message.hotwords);
        this.final(this.item(message), message);
        break;
      case `${TRANSCRIPTION}failed`:
        this.refused(message.error);
        break;
      case "error":
        // The last words may have been committed by a pause already; then there is nothing left to commit.
        if (message.error?.event_id !== this.commit) this.refused(message.error);
        break;
      default:
        if (typeof message.type !== "string") this.strange();
    }
    if (this.updates > 1 && !this.committed.size) this.finish();
  }

  item({ item_id: id }) {
    if (!this.items.has(id)) this.items.set(id, { text: "", begin: null, end: null, speaker: null, changes: [] });
    return this.items.get(id);
  }

  partial(item, { delta }) {
    item.text += delta ?? "";
    this.callbacks.onPartial({ text: item.text, begin: item.begin });
  }

  segment(item, message) {
    item.speaker ??= speakerOf(message.speaker, message.speaker_confidence);
    item.changes.push(...changesOf(message));
  }

  final({ begin, end, speaker, changes }, { item_id: id, transcript, usage }) {
    const seconds = number(usage?.seconds);
    // What the commit cuts off has no end of its own, but a length.
    const known = end ?? (begin !== null && seconds !== null ? begin + 1000 * seconds : null);
    this.items.delete(id);
    this.committed.delete(id);
    this.callbacks.onFinal({ text: String(transcript ?? ""), begin, end: known, words: [], speaker, changes });
  }
}
