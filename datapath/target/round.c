/* Rounds over a volume's sessions; see round.h. Started on the owner loop by format.c. */
#include "datapath/target/round.h"

#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "datapath/target/connection.h"
#include "datapath/target/export.h"
#include "datapath/target/reactor.h"

static void round_check(struct round *round)
{
    if (round->pending)
        return;
    struct export *export = round->export;
    round->done(round);
    export->users--;
    export_consider(export);
}

/* On the owner loop: a session has answered. */
static void round_part_answered(struct loop_message *message)
{
    struct round_part *part = container_of(message, struct round_part, answer);
    struct round *round = part->round;
    free(part);
    round->pending--;
    round_check(round);
}

void round_part_answer(struct round_part *part)
{
    loop_post(part->round->export->owner->loop, &part->answer);
}

/* On the connection's loop. The session is still there: the owner lets go of it only by a later message. */
static void round_part_asked(struct loop_message *message)
{
    struct round_part *part = container_of(message, struct round_part, ask);
    if (part->session->connection)
        connection_round(part->session->connection, part);
    else
        round_part_answer(part);
}

/* On the owner loop, after the parts were posted: a round without sessions ends here. */
static void round_started(struct loop_message *message)
{
    struct round *round = container_of(message, struct round, message);
    round->pending--;
    round_check(round);
}

static void round_free_parts(struct round_part *parts)
{
    while (parts) {
        struct round_part *part = parts;
        parts = part->next;
        free(part);
    }
}

int round_start(struct round *round, struct export *export)
{
    struct round_part *parts = NULL;
    for (struct session *session = export->first; session; session = session->next) {
        if (session->standing != SESSION_ADMITTED)
            continue;
        struct round_part *part = calloc(1, sizeof(*part));
        if (!part) {
            round_free_parts(parts);
            return -ENOMEM;
        }
        *part = (struct round_part){.round = round,
                                    .session = session,
                                    .next = parts,
                                    .ask = {.run = round_part_asked},
                                    .answer = {.run = round_part_answered}};
        parts = part;
    }
    round->export = export;
    round->pending = 1;
    if (round->kind == ROUND_HOLD)
        export->holds++;
    if (round->kind == ROUND_RELEASE)
        export->holds--;
    export->users++;
    while (parts) {
        struct round_part *part = parts;
        parts = part->next;
        part->next = NULL;
        round->pending++;
        loop_post(part->session->reactor->loop, &part->ask);
    }
    round->message.run = round_started;
    loop_post(export->owner->loop, &round->message);
    return 0;
}
