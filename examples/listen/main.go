// Command listen prints what FDC pushes over its WebSocket, a JSON message a line. It is what a frontend does, without
// the frontend:
//
//	go run ./examples/listen --cookies JAR [--cursor C] [--until REGEXP] http://127.0.0.1:8080
//
// JAR is a cookie jar as curl -c writes it. With --until it ends after the first message in which the expression is
// found, such as task.created.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"regexp"
	"strings"

	"github.com/gorilla/websocket"
)

func main() {
	cookies := flag.String("cookies", "", "curl's cookie jar, `FILE`")
	cursor := flag.String("cursor", "", "resume after this cursor")
	var until *regexp.Regexp
	flag.Func("until", "end after the first message in which this `REGEXP` is found", func(expr string) (err error) {
		until, err = regexp.Compile(expr)
		return err
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := listen(ctx, flag.Arg(0), *cookies, *cursor, until)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "listen:", err)
		os.Exit(1)
	}
}

func listen(ctx context.Context, base, jar, cursor string, until *regexp.Regexp) error {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" {
		return errors.New("name the server, such as http://127.0.0.1:8080")
	}
	cookie, err := session(jar)
	if err != nil {
		return err
	}
	u.Scheme = strings.Replace(u.Scheme, "http", "ws", 1)
	u.Path = "/api/ws"
	if cursor != "" {
		u.RawQuery = url.Values{"cursor": {cursor}}.Encode()
	}
	socket, response, err := websocket.DefaultDialer.DialContext(ctx, u.String(), http.Header{"Cookie": {cookie}})
	if response != nil {
		defer response.Body.Close() //nolint:errcheck // the end of the program
	}
	if err != nil {
		if response != nil {
			return fmt.Errorf("connect: %s", response.Status)
		}
		return fmt.Errorf("connect: %w", err)
	}
	defer socket.Close() //nolint:errcheck // the end of the program
	context.AfterFunc(ctx, func() { _ = socket.Close() })
	for {
		var message json.RawMessage
		if err := socket.ReadJSON(&message); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read: %w", err)
		}
		fmt.Println(string(message))
		if until != nil && until.Match(message) {
			return nil
		}
	}
}

// session finds FDC's cookie in a jar of curl's: seven columns, name and value last.
func session(jar string) (string, error) {
	file, err := os.Open(jar) //nolint:gosec // the user's own file
	if err != nil {
		return "", fmt.Errorf("--cookies: %w", err)
	}
	defer file.Close() //nolint:errcheck // only read
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		columns := strings.Split(strings.TrimPrefix(lines.Text(), "#HttpOnly_"), "\t")
		if len(columns) == 7 && (columns[5] == "fdc_session" || columns[5] == "__Host-fdc_session") { // the latter over https
			return columns[5] + "=" + columns[6], nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("--cookies: %w", err)
	}
	return "", fmt.Errorf("--cookies: %s holds no session; sign in first", jar)
}
