package service

// EventsLost compares two looks at a consumer.
var EventsLost = eventsLost
