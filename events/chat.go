package events

// ChatCompleted is the data of chat.completed. It stands alone.
type ChatCompleted struct {
	ChatID           string `json:"chatId"           rule:"id"    doc:"The exchange."`
	UserID           string `json:"userId"           rule:"id"    doc:"Who asked."`
	Model            string `json:"model"            rule:"label" doc:"Which model answered."`
	PromptTokens     int64  `json:"promptTokens"     rule:"count" doc:"Tokens of the question."`
	CompletionTokens int64  `json:"completionTokens" rule:"count" doc:"Tokens of the answer."`
	Cached           bool   `json:"cached"           rule:"bool"  doc:"Whether the answer came from the cache."`
}

func (p ChatCompleted) key() key { return key{id: p.ChatID, user: p.UserID} }
