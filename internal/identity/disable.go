package identity

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"fdc/events"
	"fdc/internal/platform/fault"
	"fdc/internal/platform/outbox"
)

// Account is a user as operators see one.
type Account struct {
	User
	Disabled bool
}

// AccountByEmail finds a user by the address, whatever its case; fault.NotFound when there is none.
func (s *Service) AccountByEmail(ctx context.Context, email string) (Account, error) {
	a, err := s.findUser(ctx, `lower(email) = lower($1)`, email, "user")
	return Account{User: a.User, Disabled: a.Disabled}, err
}

// Disable shuts a user out until Enable: all their sessions end, as by Logout, they can't sign in, and their access to Google ends with
// all syncs. It returns the ids of the
// sessions. Someone who is disabled already stays so, and nothing is told. The last operator who can sign in is fault.Conflict;
// a reason that isn't one line of text is fault.Invalid.
func (s *Service) Disable(ctx context.Context, meta events.Meta, userID, reason string) ([]string, error) {
	if !events.ValidID(userID) {
		return nil, fault.Missing("user")
	}
	return s.endAll(ctx, meta, events.RevokedDisabled, func(tx pgx.Tx) ([]ended, error) {
		a, err := lockByID(ctx, tx, userID)
		if err != nil || a.Disabled {
			return nil, err
		}
		if err := keepOperator(ctx, tx, a); err != nil {
			return nil, err
		}
		version, err := updateDisabled(ctx, tx, userID, true)
		if err != nil {
			return nil, err
		}
		if err := tellReason(ctx, tx, meta, events.UserDisabled{UserID: userID, Version: version, Reason: reason}); err != nil {
			return nil, err
		}
		if err := s.google.RevokeTx(ctx, tx, meta, userID); err != nil {
			return nil, err
		}
		return revokeOthers(ctx, tx, userID, nil)
	})
}

// Enable lets a disabled user sign in again; the sessions from before stay ended, and Google needs a new consent. Someone who isn't disabled stays so, and nothing
// is told. A reason that isn't one line of text is fault.Invalid.
func (s *Service) Enable(ctx context.Context, meta events.Meta, userID, reason string) error {
	if !events.ValidID(userID) {
		return fault.Missing("user")
	}
	err := s.outbox.Tx(ctx, func(tx pgx.Tx) error {
		a, err := lockByID(ctx, tx, userID)
		if err != nil || !a.Disabled {
			return err
		}
		version, err := updateDisabled(ctx, tx, userID, false)
		if err != nil {
			return err
		}
		return tellReason(ctx, tx, meta, events.UserEnabled{UserID: userID, Version: version, Reason: reason})
	})
	if err != nil {
		return fmt.Errorf("enable user %s: %w", userID, err)
	}
	return nil
}

// tellReason appends a fact of which only the reason can be wrong.
func tellReason(ctx context.Context, tx pgx.Tx, meta events.Meta, fact events.Payload) error {
	ev := events.New(meta, "", fact)
	if err := ev.Validate(); err != nil {
		return fault.Wrap(err, fault.Invalid, "bad-reason", "The reason has to be one line of text.")
	}
	return outbox.Append(ctx, tx, ev)
}

// operatorLock is the advisory lock of whoever takes an operator away: of two at one moment the second sees what the first did.
const operatorLock = 0x0fdc_5a5a

// keepOperator refuses to let the last operator go who can sign in. The user is locked.
func keepOperator(ctx context.Context, tx pgx.Tx, a account) error {
	if a.SystemRole != events.SystemRoleAdmin || a.Disabled {
		return nil
	}
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, operatorLock); err != nil {
		return err
	}
	other, err := hasOtherOperator(ctx, tx, a.ID)
	if err != nil || other {
		return err
	}
	return fault.New(fault.Conflict, "last-operator", "FDC needs an operator who can sign in; make another user SA first.")
}
