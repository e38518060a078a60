// Everything that the page says, in English and in Chinese.

const en = {
  title: "Live recognition",
  documentTitle: "Live recognition · asr-serve",
  tagline: "Speak, or choose a recording, and watch it being recognized.",
  language: "Language",
  theme: "Appearance",
  themeAuto: "Automatic",
  themeLight: "Light",
  themeDark: "Dark",

  start: "Start",
  stop: "Stop",
  cancel: "Cancel",
  level: "Level",
  elapsed: "Audio sent",

  idle: "Ready",
  connecting: "Connecting…",
  listening: "Listening",
  sending: "Sending the recording",
  finishing: "Waiting for the last result…",
  done: "Finished",
  cancelled: "Canceled",
  failed: "Failed",

  firstText: "First text",
  firstTextSpeech: "after the speech began",
  firstTextAudio: "after the first audio was sent",
  finalDelay: "Final text",
  finalDelayNote: "after the end of the audio",
  audioSent: "Audio",
  audioSentNote: "sent so far",
  sentenceCount: "Sentences",
  sentenceCountNote: "final so far",

  transcript: "Transcript",
  empty: "The text appears here. What is gray may still change; the rest is final.",
  nothingHeard: "No speech was recognized.",
  copy: "Copy",
  copied: "Copied",
  copyFailed: "Not copied: select the text and copy it with the keyboard.",
  srt: "SRT",
  srtLabel: "Download as SRT subtitles",
  clear: "Clear",
  estimated: "Estimated: the server gave no times",

  source: "Audio",
  microphone: "Microphone",
  file: "File",
  device: "Device",
  deviceDefault: "Default microphone",
  processed: "Let the browser reduce echo and noise",
  fileChoose: "Choose a recording, or drop one here",
  fileTypes: "Any format that this browser plays",
  fast: "As fast as possible",
  fastNote: "Otherwise at the speed of the recording, as a microphone would deliver it.",
  fastOffline: "Always so in offline mode.",

  protocol: "Protocol",
  protocolSpoken: "What the page speaks",
  protocolFunasr: "FunASR",
  protocolFunasrNote: "As FunASR's WebSocket clients: text while you speak, corrected after each sentence.",
  protocolNls: "Aliyun NLS",
  protocolNlsNote: "As Aliyun's SDKs with SpeechTranscriber.",
  protocolOpenai: "OpenAI Realtime",
  protocolOpenaiNote: "As OpenAI's SDKs with a transcription session: text after each sentence.",
  protocolQwen: "Qwen3-ASR",
  protocolQwenNote: "As funasr-api's clients of Qwen3-ASR: text while you speak, in any of its languages.",
  protocolDashscope: "DashScope",
  protocolDashscopeNote: "As DashScope's SDKs with Recognition (run-task).",
  model: "Model",
  modelDefault: "The server's default",
  hotwords: "Hotwords",
  hotwordsNote: "Words to listen for, each with a weight from 1 to 100 behind it if you like: 魔搭 20 通义 15",
  hotwordsApplied: "Listened for: {words}.",
  hotwordsIgnored: "Not listened for: {words}. {reason}",
  asHeard: "Text while you speak",
  asHeardNote: "With a low delay (delay: low): as it is heard, without a second look at each sentence.",
  speakers: "Who speaks",
  speakersNote: "Each sentence with its speaker, once it is final.",
  speaker: "Speaker {number}",
  unsure: "It is not certain who said this.",

  mode: "Mode",
  mode2pass: "2pass",
  mode2passNote: "Text while you speak, corrected by the offline model at the end of each sentence.",
  modeOnline: "online",
  modeOnlineNote: "Text while you speak, from the streaming model alone.",
  modeOffline: "offline",
  modeOfflineNote: "One result, after the end.",

  chunks: "Chunks",
  chunkSize: "Size: left, center, right",
  chunkInterval: "Packets per chunk",
  chunkNote: "{chunk} ms of audio per step, one packet every {packet} ms",

  server: "Server",
  address: "Address",
  addressReset: "Use this page's server",
  token: "Token",
  tokenNote: "Only where the server asks for a key.",

  "fault.insecureContext":
    "Browsers allow the microphone only on https pages and on localhost. This page came from {origin}: open it over https, or from the server itself as http://localhost. Files work here as well.",
  "fault.microphoneDenied":
    "The microphone is blocked for this page. Allow it in the browser's site settings (the icon left of the address), then start again.",
  "fault.microphoneMissing": "No microphone was found. Plug one in, or choose another device.",
  "fault.microphoneBusy": "The microphone cannot be opened. Another program may be using it.",
  "fault.microphoneFailed": "The microphone could not be used: {reason}",
  "fault.noFile": "Choose a recording first.",
  "fault.fileNotDecoded": "This browser cannot decode {name}. Try WAV, MP3, M4A, FLAC or OGG.",
  "fault.fileEmpty": "{name} holds no audio.",
  "fault.badAddress": "“{address}” is not the address of a WebSocket. It begins with ws:// or wss://.",
  "fault.mixedContent": "This page came over https, so the browser refuses the unencrypted {address}. Use wss://.",
  "fault.unreachable":
    "No connection to {address}. Is the server running, is the address right, and does it want a token?",
  "fault.unreachableSecure":
    "No connection to {address}. If the server's certificate is self-signed, open its https:// address in a tab and accept it once; otherwise check the address and the token.",
  "fault.connectionLost": "The connection was lost before the last result (code {code}). The text so far is kept.",
  "fault.closedWithReason": "The server closed the connection: {reason} (code {code}).",
  "fault.serverError": "The server reports: {reason}",
  "fault.notUnderstood": "{address} does not answer in the protocol that was chosen, {protocol}.",
  "fault.badChunk": "The chunk size is three whole numbers such as 0, 10, 5, the middle one above zero.",
  "fault.badInterval": "Packets per chunk is a whole number from 1 to 100.",
  "fault.unexpected": "Something went wrong in this page: {reason}",
  quiet:
    "The microphone is very quiet ({level} dBFS). Come closer or raise its level: a server that filters distant voices hears nothing below {limit} dBFS.",
};

const zh = {
  title: "实时识别",
  documentTitle: "实时识别 · asr-serve",
  tagline: "对着麦克风说话，或选择一段录音，文字随即出现。",
  language: "语言",
  theme: "外观",
  themeAuto: "自动",
  themeLight: "浅色",
  themeDark: "深色",

  start: "开始",
  stop: "停止",
  cancel: "取消",
  level: "音量",
  elapsed: "已发送音频",

  idle: "就绪",
  connecting: "正在连接…",
  listening: "正在聆听",
  sending: "正在发送录音",
  finishing: "正在等待最后的结果…",
  done: "已完成",
  cancelled: "已取消",
  failed: "失败",

  firstText: "首字延迟",
  firstTextSpeech: "自开始说话起",
  firstTextAudio: "自发送首个音频起",
  finalDelay: "终稿延迟",
  finalDelayNote: "自音频结束起",
  audioSent: "音频",
  audioSentNote: "已发送",
  sentenceCount: "句数",
  sentenceCountNote: "已定稿",

  transcript: "识别结果",
  empty: "文字将显示在这里：灰色的还会变动，其余的已经定稿。",
  nothingHeard: "没有识别到语音。",
  copy: "复制",
  copied: "已复制",
  copyFailed: "未能复制：请选中文字，用键盘复制。",
  srt: "SRT",
  srtLabel: "下载 SRT 字幕",
  clear: "清空",
  estimated: "估算值：服务器没有返回时间",

  source: "音频来源",
  microphone: "麦克风",
  file: "文件",
  device: "设备",
  deviceDefault: "默认麦克风",
  processed: "由浏览器降低回声和噪声",
  fileChoose: "选择录音，或拖放到这里",
  fileTypes: "浏览器能播放的格式均可",
  fast: "尽快发送",
  fastNote: "否则按录音的播放速度发送，与麦克风相同。",
  fastOffline: "离线模式下总是如此。",

  protocol: "协议",
  protocolSpoken: "本页使用的协议",
  protocolFunasr: "FunASR",
  protocolFunasrNote: "与 FunASR 的 WebSocket 客户端相同：边说边出字，每句结束后修正。",
  protocolNls: "阿里云 NLS",
  protocolNlsNote: "与阿里云 SDK 的 SpeechTranscriber 相同。",
  protocolOpenai: "OpenAI Realtime",
  protocolOpenaiNote: "与 OpenAI SDK 的转写会话相同：每句结束后出字。",
  protocolQwen: "Qwen3-ASR",
  protocolQwenNote: "与 funasr-api 的 Qwen3-ASR 客户端相同：边说边出字，支持该模型的所有语言。",
  protocolDashscope: "DashScope",
  protocolDashscopeNote: "与 DashScope SDK 的 Recognition（run-task）相同。",
  model: "模型",
  modelDefault: "服务器默认",
  hotwords: "热词",
  hotwordsNote: "需要留意的词，其后可跟 1 到 100 的权重：魔搭 20 通义 15",
  hotwordsApplied: "已生效：{words}。",
  hotwordsIgnored: "未生效：{words}。{reason}",
  asHeard: "边说边出字",
  asHeardNote: "低延迟（delay: low）：听到什么写什么，句末不再修正。",
  speakers: "区分说话人",
  speakersNote: "每句定稿后标出说话人。",
  speaker: "说话人{number}",
  unsure: "不确定这句话是谁说的。",

  mode: "模式",
  mode2pass: "2pass",
  mode2passNote: "边说边出字，每句结束后由离线模型修正。",
  modeOnline: "online",
  modeOnlineNote: "边说边出字，只用流式模型。",
  modeOffline: "offline",
  modeOfflineNote: "结束后一次返回全部结果。",

  chunks: "分块",
  chunkSize: "大小：左、中、右",
  chunkInterval: "每块的数据包数",
  chunkNote: "每步 {chunk} 毫秒音频，每 {packet} 毫秒一个数据包",

  server: "服务器",
  address: "地址",
  addressReset: "使用本页的服务器",
  token: "令牌",
  tokenNote: "仅在服务器要求密钥时填写。",

  "fault.insecureContext":
    "浏览器只允许 https 页面和 localhost 使用麦克风。本页来自 {origin}：请改用 https 打开，或在服务器本机用 http://localhost 打开。文件识别不受影响。",
  "fault.microphoneDenied": "本页的麦克风权限被拒绝。请在浏览器的网站设置（地址栏左侧的图标）中允许，然后重新开始。",
  "fault.microphoneMissing": "没有找到麦克风。请插入麦克风，或选择其他设备。",
  "fault.microphoneBusy": "无法打开麦克风，可能正被其他程序占用。",
  "fault.microphoneFailed": "无法使用麦克风：{reason}",
  "fault.noFile": "请先选择一段录音。",
  "fault.fileNotDecoded": "浏览器无法解码 {name}。请尝试 WAV、MP3、M4A、FLAC 或 OGG。",
  "fault.fileEmpty": "{name} 中没有音频。",
  "fault.badAddress": "“{address}”不是 WebSocket 地址。地址应以 ws:// 或 wss:// 开头。",
  "fault.mixedContent": "本页通过 https 打开，浏览器拒绝未加密的 {address}。请使用 wss://。",
  "fault.unreachable": "无法连接 {address}。请确认服务器已启动、地址正确，以及是否需要令牌。",
  "fault.unreachableSecure":
    "无法连接 {address}。如果服务器使用自签名证书，请先在新标签页中打开它的 https:// 地址并接受证书；否则请检查地址和令牌。",
  "fault.connectionLost": "连接在最后的结果到达之前中断（代码 {code}）。已有的文字会保留。",
  "fault.closedWithReason": "服务器关闭了连接：{reason}（代码 {code}）。",
  "fault.serverError": "服务器报告：{reason}",
  "fault.notUnderstood": "{address} 没有用所选的协议（{protocol}）应答。",
  "fault.badChunk": "分块大小是三个整数，例如 0, 10, 5，中间的数必须大于零。",
  "fault.badInterval": "每块的数据包数是 1 到 100 之间的整数。",
  "fault.unexpected": "页面出现错误：{reason}",
  quiet: "麦克风音量很低（{level} dBFS）。请靠近一些或调高音量：启用远场过滤的服务器会忽略低于 {limit} dBFS 的声音。",
};

export const LANGUAGES = { en, zh };

/** The first of the browser's languages that the page speaks; English otherwise. */
export function preferredLanguage() {
  const wanted = navigator.languages?.length ? navigator.languages : [navigator.language ?? "en"];
  return wanted.map((tag) => tag.toLowerCase().split("-")[0]).find((tag) => tag in LANGUAGES) ?? "en";
}

export class Texts {
  constructor(language) {
    this.language = language;
  }

  /** The text of a key, with `{name}` replaced from `values`. */
  get(key, values = {}) {
    return LANGUAGES[this.language][key].replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
  }

  /** Fills all elements below `root` that name a key in `data-text` or, as their label, in `data-label`. */
  apply(root) {
    for (const element of root.querySelectorAll("[data-text]")) {
      element.textContent = this.get(element.dataset.text);
    }
    for (const element of root.querySelectorAll("[data-label]")) {
      element.setAttribute("aria-label", this.get(element.dataset.label));
      element.title = this.get(element.dataset.label);
    }
    document.documentElement.lang = this.language === "zh" ? "zh-CN" : this.language;
    document.title = this.get("documentTitle");
  }
}
