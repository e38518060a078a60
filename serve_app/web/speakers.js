// Who spoke: speakers as the protocols bring them, and what becomes of them later.
//
// A speaker is `{ id, name, confidence }`. The id is what the protocol calls it, a number from 0, a letter, a
// label or a name; `name` is null unless the protocol tells it apart from the id. Changes are pairs
// `{ from, to }` of ids: what was said by the one was said by the other.

/** A speaker under an id; `null` where the protocol says that it does not know. */
export function speakerOf(id, confidence, name) {
  if (id === null || id === undefined || id === "" || id === "unknown") return null;
  return { id, name: name ?? null, confidence: Number.isFinite(confidence) ? confidence : 1 };
}

export function changesOf(message) {
  return Array.isArray(message?.speaker_changes) ? message.speaker_changes : [];
}

/** The speakers of a transcript: their order, and the names that became known. */
export class Speakers {
  constructor() {
    this.ids = [];
    this.names = new Map();
  }

  /** Takes a sentence's speaker in; its id. */
  add({ id, name }) {
    if (!this.ids.includes(id)) this.ids.push(id);
    if (name !== null) this.names.set(id, name);
    return id;
  }

  /** From 0, in the order in which they began to speak: what a colour is chosen by. */
  order(id) {
    return this.ids.indexOf(id);
  }

  /** Somebody is called differently from now on, or is somebody else who has spoken before. */
  change({ from, to }) {
    const at = this.ids.indexOf(from);
    if (at < 0 || from === to) return;
    // Its place stays taken, so that nobody else's colour changes.
    this.ids[at] = this.ids.includes(to) ? null : to;
    if (this.names.has(from) && !this.names.has(to)) this.names.set(to, this.names.get(from));
  }

  /** What a reader sees, with `texts` for what has no name of its own. */
  label(id, texts) {
    if (this.names.has(id)) return this.names.get(id);
    if (typeof id === "number") return texts.get("speaker", { number: id + 1 });
    return /^[A-Z]{1,2}$/.test(id) ? texts.get("speaker", { number: id }) : String(id);
  }
}
