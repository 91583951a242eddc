/** The texts of the console. The type checker finds a key that a language lacks. */
export const texts = {
  en: {
    signIn: "Sign in with Google", tagline: "Your workspaces, tasks and calendar, in step with Google.", signOut: "Sign out",
    workspace: "Workspace", language: "Language", newWorkspace: "New workspace…", workspaceName: "Name of the new workspace",
    ended: "Your session has ended. Sign in again.", views: "Views", skip: "Skip to the content",
    live: "Live", connecting: "Connecting…", polling: "Every few seconds", closed: "Not connected",
    tasks: "Tasks", calendar: "Calendar", document: "Document", sync: "Sync", audit: "Audit log", devices: "Devices",
    loading: "Loading…", save: "Save", cancel: "Cancel", delete: "Delete", close: "Close", retryIn: "Try again in {seconds} s.",
    addTask: "Add task", title: "Title", notes: "Notes", due: "Due", suit: "Suit", status: "Status", done: "Done", todo: "To do",
    startAt: "Starts", endAt: "Ends", editTask: "Edit task", moveTo: "Move to", noTasks: "Nothing here", markDone: "Done: {title}",
    spade: "Spade", heart: "Heart", diamond: "Diamond", club: "Club", joker: "Joker", unclassified: "Unclassified",
    moved: "Moved to {suit}.", deleted: "Deleted.", saved: "Saved.", endsBeforeStart: "It must end after it starts.",
    week: "Week of {date}", previous: "Previous week", next: "Next week", today: "Today", allDay: "all day", noEvents: "No events this week.",
    fromGoogle: "from Google", task: "task",
    documentOf: "The workspace's document, as JSON. Version {version}.", changedBySomeone: "Somebody saved version {version} while you were editing. Save to merge it with yours.",
    notJSON: "This is not JSON: {error}", notObject: "The document has to be a JSON object.", mergeTitle: "Merge with version {version}",
    mergeHelp: "Both you and somebody else changed these. Choose what is to be kept; all other changes are in.", mine: "Yours", theirs: "Theirs",
    keepMerged: "Save the merged document", merged: "Merged with version {version}.", absent: "(deleted)", path: "Where",
    format: "Format", discard: "Discard my changes",
    syncNow: "Sync now", fullRead: "Read everything anew", what: "What", full: "Tasks and calendar", connectGoogle: "Connect Google", reconnectGoogle: "Connect Google again",
    googleState: "Google: {state}", lastSynced: "Last synced {time}", never: "never", history: "History", when: "When", outcome: "Outcome", counts: "Counts",
    state_disconnected: "not connected", state_pending_first_sync: "waiting for the first sync", state_ok: "in step", state_syncing: "syncing", state_stale: "behind", state_reauth_required: "wants your consent again",
    job_idle: "No sync is under way.", job_starting: "Starting…", job_pending: "Waiting for a syncer…", job_processing: "Syncing…", job_completed: "Completed", job_failed: "Failed", job_cancelled: "Cancelled",
    phase_tasks: "Reading tasks", phase_calendar: "Reading the calendar", phase_push: "Writing to Google", created: "new", updated: "changed", pushed: "sent", conflicts: "conflicts", failed: "refused", removed: "deleted", nothing: "nothing new",
    from: "From", to: "To", actor: "Actor", action: "Action", target: "Target", result: "Result", apply: "Filter", more: "Older entries", exportCSV: "Export CSV", exportNDJSON: "Export NDJSON",
    notAllowed: "Only owners and admins of the workspace may read its audit log.", noRows: "No entries.", you: "you", system: "system",
    thisDevice: "this device", lastSeen: "Last seen", signedIn: "Signed in", address: "Address", browser: "Browser", revoke: "Sign out this device", revokeOthers: "Sign out all others", revoked: "Signed out.",
    operators: "Operators",
    reauthAnotherAccount: "Confirm with the Google account that you are signed in with.", reauthCancelled: "You have not been confirmed. Try again.",
    signInProblem: "The sign-in has failed. Try again.",
    members: "Members", name: "Name", email: "Email address", role: "Role", active: "member", invite: "Invite", invited: "{email} is invited.", invitedUntil: "invited until {time}",
    resend: "Send again", resent: "Sent again to {email}.", withdraw: "Withdraw", withdrawn: "Invitation withdrawn.", invitations: "Invitations", accept: "Accept", decline: "Decline",
    invitedBy: "{inviter} invites you to “{workspace}” as {role}.", invitedTo: "You are invited to “{workspace}” as {role}.",
  },
  ja: {
    signIn: "Google でログイン", tagline: "ワークスペース、タスク、カレンダーを Google と同期します。", signOut: "ログアウト",
    workspace: "ワークスペース", language: "言語", newWorkspace: "新しいワークスペース…", workspaceName: "新しいワークスペースの名前",
    ended: "セッションが終了しました。もう一度ログインしてください。", views: "表示", skip: "本文へ移動",
    live: "リアルタイム", connecting: "接続中…", polling: "数秒ごとに更新", closed: "未接続",
    tasks: "タスク", calendar: "カレンダー", document: "ドキュメント", sync: "同期", audit: "監査ログ", devices: "端末",
    loading: "読み込み中…", save: "保存", cancel: "キャンセル", delete: "削除", close: "閉じる", retryIn: "{seconds} 秒後にもう一度お試しください。",
    addTask: "タスクを追加", title: "タイトル", notes: "メモ", due: "期限", suit: "スート", status: "状態", done: "完了", todo: "未完了",
    startAt: "開始", endAt: "終了", editTask: "タスクを編集", moveTo: "移動先", noTasks: "ありません", markDone: "完了: {title}",
    spade: "スペード", heart: "ハート", diamond: "ダイヤ", club: "クラブ", joker: "ジョーカー", unclassified: "未分類",
    moved: "{suit} に移動しました。", deleted: "削除しました。", saved: "保存しました。", endsBeforeStart: "終了は開始より後にしてください。",
    week: "{date} の週", previous: "前の週", next: "次の週", today: "今日", allDay: "終日", noEvents: "この週の予定はありません。",
    fromGoogle: "Google の予定", task: "タスク",
    documentOf: "ワークスペースのドキュメント (JSON)。バージョン {version}。", changedBySomeone: "編集中に他の人がバージョン {version} を保存しました。保存すると統合できます。",
    notJSON: "JSON ではありません: {error}", notObject: "ドキュメントは JSON オブジェクトでなければなりません。", mergeTitle: "バージョン {version} との統合",
    mergeHelp: "次の項目はあなたと他の人の両方が変更しました。残す方を選んでください。その他の変更は反映済みです。", mine: "あなた", theirs: "他の人",
    keepMerged: "統合したドキュメントを保存", merged: "バージョン {version} と統合しました。", absent: "(削除)", path: "場所",
    format: "整形", discard: "変更を破棄",
    syncNow: "今すぐ同期", fullRead: "すべて読み直す", what: "対象", full: "タスクとカレンダー", connectGoogle: "Google に接続", reconnectGoogle: "Google に再接続",
    googleState: "Google: {state}", lastSynced: "最終同期 {time}", never: "なし", history: "履歴", when: "日時", outcome: "結果", counts: "件数",
    state_disconnected: "未接続", state_pending_first_sync: "初回同期待ち", state_ok: "同期済み", state_syncing: "同期中", state_stale: "遅れています", state_reauth_required: "再度の許可が必要です",
    job_idle: "実行中の同期はありません。", job_starting: "開始中…", job_pending: "待機中…", job_processing: "同期中…", job_completed: "完了", job_failed: "失敗", job_cancelled: "中止",
    phase_tasks: "タスクを取得中", phase_calendar: "カレンダーを取得中", phase_push: "Google に送信中", created: "新規", updated: "変更", pushed: "送信", conflicts: "競合", failed: "拒否", removed: "削除", nothing: "変更なし",
    from: "開始日時", to: "終了日時", actor: "実行者", action: "操作", target: "対象", result: "結果", apply: "絞り込み", more: "以前の記録", exportCSV: "CSV を書き出す", exportNDJSON: "NDJSON を書き出す",
    notAllowed: "監査ログを読めるのはオーナーと管理者だけです。", noRows: "記録はありません。", you: "あなた", system: "システム",
    thisDevice: "この端末", lastSeen: "最終利用", signedIn: "ログイン", address: "アドレス", browser: "ブラウザー", revoke: "この端末をログアウト", revokeOthers: "他のすべてをログアウト", revoked: "ログアウトしました。",
    operators: "運用",
    reauthAnotherAccount: "ログイン中の Google アカウントで確認してください。", reauthCancelled: "確認されませんでした。もう一度お試しください。",
    signInProblem: "ログインに失敗しました。もう一度お試しください。",
    members: "メンバー", name: "名前", email: "メールアドレス", role: "役割", active: "メンバー", invite: "招待", invited: "{email} を招待しました。", invitedUntil: "招待中 ({time} まで)",
    resend: "再送", resent: "{email} に再送しました。", withdraw: "取り消す", withdrawn: "招待を取り消しました。", invitations: "招待", accept: "承認", decline: "辞退",
    invitedBy: "{inviter} さんから「{workspace}」に {role} として招待されています。", invitedTo: "「{workspace}」に {role} として招待されています。",
  },
};

/** @typedef {keyof typeof texts} Language */
/** @typedef {keyof typeof texts.en} Key */

const stored = localStorage.getItem("language");
/** @type {Language} */
export let language = stored === "en" || stored === "ja" ? stored : navigator.language.startsWith("ja") ? "ja" : "en";

/** @param {Language} wanted */
export function setLanguage(wanted) {
  language = wanted;
  localStorage.setItem("language", wanted);
}

/**
 * A text in the user's language, with its {parameters} filled in.
 * @param {Key} key
 * @param {Record<string, string | number>} [parameters]
 */
export function t(key, parameters = {}) {
  return texts[language][key].replace(/\{(\w+)\}/g, (all, name) => String(parameters[name] ?? all));
}

/**
 * @param {string | number | Date} moment
 * @param {Intl.DateTimeFormatOptions} [how]
 */
export function time(moment, how = { dateStyle: "medium", timeStyle: "short" }) {
  return new Intl.DateTimeFormat(language, how).format(new Date(moment));
}
