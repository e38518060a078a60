// Everything that the page says, in English and in Chinese.

const en = {
  documentTitle: "Service · asr-serve",
  language: "Language",
  key: "Admin key",
  enter: "Show",
  deployments: "Deployments",
  name: "Name",
  status: "Status",
  replicas: "Replicas",
  waiting: "Waiting",
  oldest: "Longest wait",
  running: "Running",
  busy: "Busy",
  lag: "Live lag",
  speed: "Speed",
  liveSessions: "Live sessions",
  files: "Files",
  jobsQueued: "Jobs waiting",
  jobsRunning: "Jobs running",
  ingress: "Ingress replicas",
  items: (items, seconds) => (seconds ? `${items} (${seconds} s audio)` : `${items}`),
  seconds: (value) => `${value} s`,
  times: (value) => `${value}×`,
  process: (node, pid, state, since) => `${node} · ${pid} · ${state} · ${since}`,
  updated: (time) => `Updated ${time}, every 2 s`,
  unreachable: "The server does not answer. It is asked again every 2 s.",
};

const zh = {
  documentTitle: "服务状态 · asr-serve",
  language: "语言",
  key: "管理密钥",
  enter: "查看",
  deployments: "部署",
  name: "名称",
  status: "状态",
  replicas: "副本",
  waiting: "等待",
  oldest: "最长等待",
  running: "处理中",
  busy: "繁忙",
  lag: "实时延迟",
  speed: "速度",
  liveSessions: "实时会话",
  files: "文件",
  jobsQueued: "等待的任务",
  jobsRunning: "运行的任务",
  ingress: "入口副本",
  items: (items, seconds) => (seconds ? `${items}（${seconds} 秒音频）` : `${items}`),
  seconds: (value) => `${value} 秒`,
  times: (value) => `${value}×`,
  process: (node, pid, state, since) => `${node} · ${pid} · ${state} · ${since}`,
  updated: (time) => `更新于 ${time}，每 2 秒一次`,
  unreachable: "服务器没有应答，每 2 秒重试一次。",
};

export const languages = { en, zh };

// A browser that keeps nothing may throw at both.
export function remember(language) {
  try {
    localStorage.setItem("asr-serve.admin-language", language);
  } catch {
    // It is asked again next time.
  }
}

export function firstLanguage() {
  try {
    const saved = localStorage.getItem("asr-serve.admin-language");
    if (saved in languages) return saved;
  } catch {
    // Then the browser's own counts.
  }
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}
