// The protocols that the page speaks: each with its session, its address beside this page, and its packets.

import { DashscopeSession } from "./dashscope.js";
import { FunasrSession, packetSamples } from "./funasr.js";
import { NlsSession } from "./nls.js";
import { OpenaiSession } from "./openai.js";
import { QwenSession } from "./qwen.js";
import { TARGET_RATE } from "./audio.js";

/** 100 ms, as the SDKs send it. */
const packetSamplesOfSdks = () => TARGET_RATE / 10;

export const PROTOCOLS = {
  funasr: { Session: FunasrSession, path: "funasr", packetSamples },
  nls: { Session: NlsSession, path: "../asr", packetSamples: packetSamplesOfSdks },
  openai: {
    Session: OpenaiSession,
    path: "../../../v1/realtime?intent=transcription",
    packetSamples: packetSamplesOfSdks,
  },
  qwen: { Session: QwenSession, path: "qwen", packetSamples: packetSamplesOfSdks },
  dashscope: {
    Session: DashscopeSession,
    path: "../../../api-ws/v1/inference",
    packetSamples: packetSamplesOfSdks,
  },
};

/** The recognizer beside this page, wherever a proxy has put both. */
export function ownAddress(protocol) {
  const url = new URL(PROTOCOLS[protocol].path, location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}
