-- +goose Up

-- Tokens are sealed (AES-256-GCM, versioned keys) before they reach this table. After a disconnect the row stays with
-- state 'disconnected' and no tokens, so that a later connect can tell whether it is the same Google account.
-- default_task_list is the real id behind Google's alias @default, once known.
CREATE TABLE google_accounts (
    user_id           uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    google_id         text        NOT NULL,
    email             text        NOT NULL,
    state             text        NOT NULL CHECK (state IN ('connected', 'reauth_required', 'disconnected')),
    scopes            text[]      NOT NULL DEFAULT '{}',
    access_token      bytea,
    refresh_token     bytea,
    access_expires_at timestamptz,
    default_task_list text        NOT NULL DEFAULT '',
    version           bigint      NOT NULL DEFAULT 1,
    connected_at      timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE sync_settings (
    user_id          uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    workspace_id     uuid        NOT NULL REFERENCES workspaces ON DELETE CASCADE,
    task_list_id     text        NOT NULL,
    calendar_ids     text[]      NOT NULL,
    auto_sync        boolean     NOT NULL,
    interval_minutes integer     NOT NULL CHECK (interval_minutes BETWEEN 5 AND 1440),
    updated_at       timestamptz NOT NULL DEFAULT now()
);

-- How far each Google collection of a user was read: resource is 'calendar:<id>' or 'tasks:<workspace>:<list>'.
-- generation counts the full reads; it is taken when one begins, so that an abandoned one never looks like the next.
CREATE TABLE sync_state (
    user_id        uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    resource       text        NOT NULL,
    sync_token     text        NOT NULL DEFAULT '',
    updated_min    timestamptz,
    generation     bigint      NOT NULL DEFAULT 0,
    full_synced_at timestamptz,
    synced_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, resource)
);

-- Masters, single events and exceptions as Google has them; reads expand the series. [starts, ends) is when the row may
-- be seen at all: of a series until its last instance, of a cancelled exception never (null).
CREATE TABLE calendar_events (
    user_id            uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    calendar_id        text        NOT NULL,
    event_id           text        NOT NULL,
    etag               text        NOT NULL DEFAULT '',
    status             text        NOT NULL DEFAULT 'confirmed',
    title              text        NOT NULL DEFAULT '',
    html_link          text        NOT NULL DEFAULT '',
    all_day            boolean     NOT NULL DEFAULT false,
    start_date         date,
    end_date           date,
    start_at           timestamptz,
    end_at             timestamptz,
    time_zone          text        NOT NULL DEFAULT '',
    recurrence         text[]      NOT NULL DEFAULT '{}',
    recurring_event_id text        NOT NULL DEFAULT '',
    original_start     text        NOT NULL DEFAULT '',
    starts             timestamptz,
    ends               timestamptz,
    ours               boolean     NOT NULL DEFAULT false,
    generation         bigint      NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, calendar_id, event_id)
);
-- Windows are mostly around now, and what has ended only grows: so the end leads.
CREATE INDEX calendar_events_window_idx ON calendar_events (user_id, ends, starts);
CREATE INDEX calendar_events_exception_idx ON calendar_events (user_id, calendar_id, recurring_event_id)
    WHERE recurring_event_id <> '';

-- What one user's Google holds of a task. snapshot is what Google had when last heard of: the base of the merge.
-- google_task_id is null while an insert is only intended (the journal against doubles after an ambiguous answer; snapshot
-- is then what was to be inserted). The workspace and the list are a pair: each pair mirrors the list on its own.
CREATE TABLE google_task_links (
    user_id          uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    task_id          uuid        NOT NULL REFERENCES tasks ON DELETE CASCADE,
    workspace_id     uuid        NOT NULL,
    task_list_id     text        NOT NULL,
    google_task_id   text,
    snapshot         jsonb,
    google_updated   timestamptz,
    generation       bigint      NOT NULL DEFAULT 0,
    intended_at      timestamptz,
    event_id         text,
    event_etag       text        NOT NULL DEFAULT '',
    event_generation integer     NOT NULL DEFAULT 0,
    event_version    bigint      NOT NULL DEFAULT 0,
    synced_version   bigint      NOT NULL DEFAULT 0,
    synced_at        timestamptz,
    error            text        NOT NULL DEFAULT '',
    PRIMARY KEY (user_id, task_id)
);
CREATE UNIQUE INDEX google_task_links_google_idx ON google_task_links (user_id, workspace_id, task_list_id, google_task_id)
    WHERE google_task_id IS NOT NULL;
CREATE INDEX google_task_links_task_idx ON google_task_links (task_id);
CREATE INDEX google_task_links_intent_idx ON google_task_links (user_id) WHERE intended_at IS NOT NULL;

-- The truth about sync jobs. At most one pending and one processing per user. A processing job without lease_token waits
-- for another attempt while a pending one has taken its place. previous_start is when the user's job before this attempt
-- began: who has waited longest comes first.
CREATE TABLE sync_jobs (
    id                uuid PRIMARY KEY,
    user_id           uuid        NOT NULL REFERENCES users ON DELETE CASCADE,
    type              text        NOT NULL CHECK (type IN ('tasks', 'calendar', 'full')),
    mode              text        NOT NULL CHECK (mode IN ('incremental', 'resync')),
    trigger           text        NOT NULL DEFAULT 'user',
    status            text        NOT NULL DEFAULT 'pending'
                      CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'cancelled')),
    version           bigint      NOT NULL DEFAULT 1,
    attempt           integer     NOT NULL DEFAULT 0,
    run_after         timestamptz NOT NULL DEFAULT now(),
    previous_start    timestamptz,
    lease_token       uuid,
    lease_expires_at  timestamptz,
    cancel_requested  boolean     NOT NULL DEFAULT false,
    progress          jsonb,
    result            jsonb,
    error             jsonb,
    request_id        text        NOT NULL DEFAULT '',
    created_at        timestamptz NOT NULL DEFAULT now(),
    started_at        timestamptz,
    completed_at      timestamptz
);
CREATE UNIQUE INDEX sync_jobs_one_pending ON sync_jobs (user_id) WHERE status = 'pending';
CREATE UNIQUE INDEX sync_jobs_one_processing ON sync_jobs (user_id) WHERE status = 'processing';
CREATE INDEX sync_jobs_claim_idx ON sync_jobs (previous_start NULLS FIRST, id) WHERE status = 'pending';
CREATE INDEX sync_jobs_lease_idx ON sync_jobs (lease_expires_at) WHERE status = 'processing';
CREATE INDEX sync_jobs_user_idx ON sync_jobs (user_id, created_at DESC);

-- +goose Down
DROP TABLE sync_jobs;
DROP TABLE google_task_links;
DROP TABLE calendar_events;
DROP TABLE sync_state;
DROP TABLE sync_settings;
DROP TABLE google_accounts;
