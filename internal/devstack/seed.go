package devstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rs/zerolog"

	"fdc/events"
	"fdc/internal/gsync"
	"fdc/internal/identity"
	"fdc/internal/platform/outbox"
	"fdc/internal/platform/postgres"
	"fdc/internal/platform/seal"
	"fdc/internal/task"
	"fdc/internal/workspace"
)

// The people of the demo.
const (
	Alice = "alice@example.com"
	Bob   = "bob@example.com"
)

const demoTasks = 200

// demoWorkspaces names the founder's own workspace.
type demoWorkspaces struct{ *workspace.Service }

func (d demoWorkspaces) CreateTx(ctx context.Context, tx pgx.Tx, meta events.Meta, ownerID, _ string) (string, error) {
	return d.Service.CreateTx(ctx, tx, meta, ownerID, "Demo")
}

// SeedConfig is what the demo's data is made with.
type SeedConfig struct {
	Database postgres.Config
	Google   gsync.OAuth // of an emulator that knows the demo's people
	Keys     seal.Secret
	Log      zerolog.Logger
	Begin    func() error // called before the first change; may be nil
}

// seed fills the stack's database, unless somebody has used it. What is broken off is noticed at the next start.
func (s *stack) seed(ctx context.Context) error {
	err := Seed(ctx, SeedConfig{
		Database: s.databaseConfig(), Google: s.oauth(), Keys: s.secrets.MasterKeys, Log: s.Logger("seed"),
		Begin: func() error {
			s.Progress("seeding demo data")
			return os.WriteFile(s.unfinished(), nil, 0o600)
		},
	})
	if err != nil {
		return err
	}
	if err := os.Remove(s.unfinished()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("seed: %w", err)
	}
	return nil
}

// Seed fills an empty database through the features themselves, events and all: Alice, who is SA and OWNER of the
// workspace Demo with its tasks and a connected Google account, and Bob, a MEMBER there. A database with a user is left alone.
func Seed(ctx context.Context, c SeedConfig) error {
	pool, err := postgres.Open(ctx, c.Database, "fdc-seed")
	if err != nil {
		return err
	}
	defer pool.Close()
	done, err := seeded(ctx, pool)
	if err != nil || done {
		return err
	}
	if c.Begin != nil {
		if err := c.Begin(); err != nil {
			return fmt.Errorf("seed: %w", err)
		}
	}
	keys, err := seal.ParseKeys(c.Keys)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	ob := outbox.New(pool, nil)
	workspaces := workspace.New(ob)
	tasks := task.New(ob, workspaces)
	google := gsync.New(gsync.Config{
		Outbox: ob, OAuth: c.Google, Keys: keys, Tasks: tasks, Members: workspaces, Source: "/fdc/dev", Log: c.Log,
	})
	meta := events.Meta{Source: "/fdc/dev", ActorID: events.SystemActor}

	grant, err := consent(ctx, google, Alice)
	if err != nil {
		return fmt.Errorf("seed %s: %w", Alice, err)
	}
	founders := identity.New(ob, demoWorkspaces{workspaces}, gsync.Access{})
	_, founder, err := founders.SignIn(ctx, meta, identity.Profile{
		GoogleID: grant.GoogleID, Email: grant.Email, Name: grant.Name, EmailVerified: grant.EmailVerified,
	})
	if err != nil {
		return fmt.Errorf("seed %s: %w", Alice, err)
	}
	alice, demo := founder.User.ID, founder.Memberships[0].WorkspaceID
	if err := founders.Logout(ctx, meta, founder.ID); err != nil {
		return fmt.Errorf("seed %s: %w", Alice, err)
	}
	if err := founders.SetSystemRole(ctx, meta, alice, events.SystemRoleAdmin); err != nil {
		return fmt.Errorf("seed %s: %w", Alice, err)
	}
	if err := google.Connect(ctx, meta, alice, grant); err != nil {
		return fmt.Errorf("seed %s: %w", Alice, err)
	}
	meta.ActorID = alice
	invitation, err := workspaces.Invite(ctx, meta, alice, demo, Bob, workspace.RoleMember)
	if err != nil {
		return fmt.Errorf("seed %s: %w", Bob, err)
	}
	bob, err := seedBob(ctx, identity.New(ob, workspaces, gsync.Access{}), google)
	if err != nil {
		return fmt.Errorf("seed %s: %w", Bob, err)
	}
	meta.ActorID = bob
	if _, err := workspaces.Accept(ctx, meta, bob, invitation.ID); err != nil {
		return fmt.Errorf("seed %s: %w", Bob, err)
	}
	meta.ActorID = alice
	document := []byte(`{"mission":"Ship the cockpit","runway":{"months":14,"currency":"EUR"},"目標":["最初の100人","黒字化"]}`)
	if _, err := workspaces.PutData(ctx, meta, alice, demo, document, workspace.Expect{}); err != nil {
		return fmt.Errorf("seed document: %w", err)
	}
	for n := range demoTasks {
		if _, err := tasks.Create(ctx, meta, alice, demo, demoTask(n, time.Now())); err != nil {
			return fmt.Errorf("seed task %d: %w", n, err)
		}
	}
	return nil
}

// unfinished is the file that exists while the seed is under way.
func (s *stack) unfinished() string { return filepath.Join(s.Data, "seeding") }

// discardUnfinishedSeed empties the database when a seed was broken off: nobody has used it yet.
func (s *stack) discardUnfinishedSeed(ctx context.Context) error {
	if _, err := os.Stat(s.unfinished()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	conn, err := postgres.Connect(ctx, s.databaseConfig(), "fdc-seed")
	if err != nil {
		return fmt.Errorf("discard an unfinished seed: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // the statement is committed by then
	if _, err := conn.Exec(ctx, `DROP SCHEMA public CASCADE; CREATE SCHEMA public`); err != nil {
		return fmt.Errorf("discard an unfinished seed: %w", err)
	}
	return nil
}

func seedBob(ctx context.Context, users *identity.Service, google *gsync.Service) (id string, err error) {
	meta := events.Meta{Source: "/fdc/dev"}
	grant, err := consent(ctx, google, Bob)
	if err != nil {
		return "", err
	}
	_, session, err := users.SignIn(ctx, meta, identity.Profile{
		GoogleID: grant.GoogleID, Email: grant.Email, Name: grant.Name, EmailVerified: grant.EmailVerified,
	})
	if err != nil {
		return "", err
	}
	meta.ActorID = session.User.ID
	return session.User.ID, users.Logout(ctx, meta, session.ID)
}

func seeded(ctx context.Context, pool *pgxpool.Pool) (bool, error) {
	var found bool
	if err := pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM users)`).Scan(&found); err != nil {
		return false, fmt.Errorf("look for seeded data: %w", err)
	}
	return found, nil
}

// consent walks the OAuth flow as a browser would: the emulator signs a known login hint in without a click.
func consent(ctx context.Context, google *gsync.Service, email string) (gsync.Grant, error) {
	const redirect = "http://127.0.0.1/seed"
	verifier := events.NewID() + events.NewID()
	browser := &http.Client{
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, google.AuthURL("seed", verifier, redirect, email, gsync.ForConnect), nil)
	if err != nil {
		return gsync.Grant{}, fmt.Errorf("consent: %w", err)
	}
	response, err := browser.Do(request)
	if err != nil {
		return gsync.Grant{}, fmt.Errorf("consent: %w", err)
	}
	defer response.Body.Close() //nolint:errcheck // nothing is read from it
	back, err := url.Parse(response.Header.Get("Location"))
	if err != nil || back.Query().Get("code") == "" {
		return gsync.Grant{}, errors.Join(fmt.Errorf("consent: the emulator answered %s", response.Status), err)
	}
	return google.Exchange(ctx, back.Query().Get("code"), verifier, redirect)
}

// demoTask is the nth of the demo's tasks: some done, some due, some timed, in both languages.
func demoTask(n int, now time.Time) task.Draft {
	titles := []string{
		"Call the first ten customers", "投資家向け月次レポート", "Fix the onboarding e-mail", "採用面接の準備", "Renew the domain",
		"価格ページの見直し", "Write the launch post", "経費精算", "Plan the offsite", "契約書のレビュー",
	}
	suits := []string{task.Spade, task.Heart, task.Diamond, task.Club, task.Joker, task.Unclassified}
	d := task.Draft{Title: fmt.Sprintf("%s #%d", titles[n%len(titles)], n+1), Suit: suits[n%len(suits)]}
	day := now.UTC().Truncate(24*time.Hour).AddDate(0, 0, n%90-20)
	if n%4 == 0 {
		d.Status = task.Done
	}
	if n%3 == 0 {
		d.DueDate = day.Format(time.DateOnly)
	}
	if n%10 == 5 {
		start := day.Add(9 * time.Hour)
		end := start.Add(time.Hour)
		d.StartAt, d.EndAt, d.TimeZone = &start, &end, "Asia/Tokyo"
	}
	if n%7 == 0 {
		d.Notes = "Notes for task " + d.Title
	}
	return d
}
