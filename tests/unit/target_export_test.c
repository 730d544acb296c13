/*
 * Admission, reinstatement, drains and holds of one volume, on four fake loops in seeded orders: export.c,
 * session.c and round.c as they are, around them a volume with two attachments and connections that only log
 * in, carry out one long command, and end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "datapath/target/connection.h"
#include "datapath/target/export.h"
#include "datapath/target/reactor.h"
#include "datapath/target/round.h"
#include "datapath/target/server.h"
#include "tests/unit/fake_loop.h"

#define LOOPS 4
#define AGENTS 40
#define SEEDS 300
#define VOLUME_ID "store-1.0123456789abcdef"
#define OWNER 2

/* ---- a volume that is not there ---- */

struct volume {
    int references;
    void *owner_data;
    bool image_fails;
};

static struct volume volume;
static struct attachment attachments[2];
static struct volume_record record;

struct volume *store_volume_find(struct store *store, const char *id)
{
    (void)store;
    return str_equal(id, VOLUME_ID) ? volume_ref(&volume) : NULL;
}
struct volume *volume_ref(struct volume *of)
{
    of->references++;
    return of;
}
struct volume *volume_unref(struct volume *of)
{
    of->references--;
    return NULL;
}
const char *volume_id(const struct volume *of)
{
    (void)of;
    return VOLUME_ID;
}
uint64_t volume_size_bytes(const struct volume *of)
{
    (void)of;
    return 1 << 20;
}
bool volume_is_thick(const struct volume *volume)
{
    (void)volume;
    return false;
}

uint32_t volume_block_size_bytes(const struct volume *of)
{
    (void)of;
    return 4096;
}
void volume_set_owner_data(struct volume *of, void *data)
{
    of->owner_data = data;
}
void *volume_owner_data(struct volume *of)
{
    return of->owner_data;
}
int volume_snapshot_record(struct volume *of, struct volume_record *ret_record)
{
    (void)of;
    return volume_record_copy(ret_record, &record);
}
static const char *fenced_node;
int store_node_get(struct store *store, const char *node_id, struct node_record *ret_record,
                   struct error *err)
{
    (void)store;
    (void)err;
    *ret_record = (struct node_record){.fenced = fenced_node && str_equal(node_id, fenced_node)};
    return 0;
}
int volume_image(struct volume *of, struct image **ret, struct error *err)
{
    if (of->image_fails)
        return error_set(err, E_CORRUPT, "this test's image cannot be opened");
    *ret = (struct image *)of;
    return 0;
}

/* ---- the loops ---- */

static struct settings settings;
static struct server server;
static struct reactor reactors[LOOPS];

struct reactor *server_owner(const struct server *of, const char *id)
{
    (void)of;
    (void)id;
    return &reactors[OWNER];
}
void reactor_check_stopped(struct reactor *reactor)
{
    (void)reactor;
}

/* ---- connections ---- */

struct agent {
    struct connection connection;
    struct loop_message begin;
    struct loop_op command; /* one that takes its time */
    struct round_part *round;
    bool asked, decided, live, executing, ended;
    unsigned looked_again; /* at the volume's limits */
    enum session_verdict verdict;
};

static struct agent agents[AGENTS];
static unsigned agents_count, granted_count;
static uint64_t random_state;

static unsigned draw(unsigned below)
{
    random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (unsigned)(random_state >> 33) % below;
}

static void agent_end(struct agent *agent)
{
    if (agent->ended || agent->executing)
        return;
    agent->ended = true;
    agent->live = false;
    session_end(agent->connection.session);
}

static void agent_command_done(struct loop_op *op, int res, unsigned flags)
{
    struct agent *agent = container_of(op, struct agent, command);
    (void)res;
    (void)flags;
    agent->executing = false;
    if (agent->round) {
        round_part_answer(agent->round);
        agent->round = NULL;
    }
    if (agent->connection.closing)
        agent_end(agent);
}

static bool same_nexus(const struct session *a, const struct session *b)
{
    return memcmp(a->isid, b->isid, 6) == 0 && str_equal(a->initiator_name, b->initiator_name);
}

static void agent_decided(struct session *session, enum session_verdict verdict)
{
    struct agent *agent = container_of(session->connection, struct agent, connection);
    assert_false(agent->decided);
    agent->decided = true;
    agent->verdict = verdict;
    if (verdict == SESSION_GRANTED && !agent->connection.closing) {
        /* Invariant 4: the old session's last command has ended. */
        for (unsigned i = 0; i < agents_count; i++)
            assert_false(agents[i].live && same_nexus(agents[i].connection.session, session));
        agent->live = agent->executing = true;
        granted_count++;
        loop_timeout(session->reactor->loop, &agent->command, 1 + draw(50));
    } else if (!agent->connection.closing) {
        agent->connection.closing = true;
        agent_end(agent);
    }
}

void connection_close(struct connection *connection, const char *why)
{
    (void)why;
    connection->closing = true;
    agent_end(container_of(connection, struct agent, connection));
}

void connection_round(struct connection *connection, struct round_part *part)
{
    struct agent *agent = container_of(connection, struct agent, connection);
    if (agent->executing && part->round->kind == ROUND_HOLD)
        agent->round = part;
    else
        round_part_answer(part);
}

void throttle_look_again(struct connection *connection)
{
    container_of(connection, struct agent, connection)->looked_again++;
}

static void agent_begin(struct loop_message *message)
{
    struct agent *agent = container_of(message, struct agent, begin);
    agent->asked = true;
    session_ask(agent->connection.session);
}

static struct agent *agent_login(uint64_t epoch, uint64_t generation, unsigned isid)
{
    struct agent *agent = &agents[agents_count++];
    struct reactor *reactor = &reactors[draw(LOOPS)];
    struct session *session;
    agent->connection.reactor = reactor;
    agent->command.done = agent_command_done;
    agent->begin.run = agent_begin;
    assert_int_equal(session_new(&session, &agent->connection, reactor), 0);
    agent->connection.session = session;
    str_copy(session->volume_id, sizeof(session->volume_id), VOLUME_ID);
    snprintf(session->initiator_name, sizeof(session->initiator_name), "iqn.test:%u", (unsigned)epoch);
    session->isid[5] = (uint8_t)isid;
    session->epoch = epoch;
    session->generation = generation;
    session->decided = agent_decided;
    loop_post(reactor->loop, &agent->begin);
    return agent;
}

/* ---- the frame ---- */

static int begin(void **state)
{
    static const struct loop_options options = {0};
    (void)state;
    settings = (struct settings){.sessions_per_volume_max = 16};
    server = (struct server){.settings = &settings};
    volume = (struct volume){0};
    memset(agents, 0, sizeof(agents));
    agents_count = granted_count = 0;
    for (unsigned i = 0; i < 2; i++) {
        attachments[i] = (struct attachment){
            .epoch = i + 1, .generation = 3, .access_mode = ACCESS_MULTI_NODE_MULTI_WRITER};
        snprintf(attachments[i].node_id, sizeof(attachments[i].node_id), "n%u", i + 1);
    }
    record = (struct volume_record){.size_bytes = 1 << 20,
                                    .block_size_bytes = 4096,
                                    .attachments = attachments,
                                    .attachments_count = 2,
                                    .epoch_last = 2};
    for (unsigned i = 0; i < LOOPS; i++) {
        reactors[i] = (struct reactor){.server = &server, .index = i};
        if (loop_new(&reactors[i].loop, &options, NULL) != 0)
            return -1;
    }
    return 0;
}

static int end(void **state)
{
    (void)state;
    for (unsigned i = 0; i < LOOPS; i++)
        reactors[i].loop = loop_free(reactors[i].loop);
    return 0;
}

static void settle(uint64_t seed)
{
    struct loop *loops[LOOPS];
    for (unsigned i = 0; i < LOOPS; i++)
        loops[i] = reactors[i].loop;
    fake_loops_settle(loops, LOOPS, seed);
}

static void some_steps(unsigned count)
{
    while (count-- > 0)
        fake_loop_step(reactors[draw(LOOPS)].loop);
}

/* Everyone leaves; nothing may stay behind. */
static void leave(uint64_t seed)
{
    settle(seed);
    for (unsigned i = 0; i < agents_count; i++)
        if (agents[i].asked && !agents[i].ended)
            connection_close(&agents[i].connection, "the test ends");
    settle(seed);
    for (unsigned i = 0; i < agents_count; i++)
        assert_true(agents[i].ended);
    for (unsigned i = 0; i < LOOPS; i++)
        assert_int_equal(reactors[i].sessions_count, 0);
    assert_null(volume.owner_data);
    assert_int_equal(volume.references, 0);
}

/* ---- drains ---- */

struct draining {
    struct loop_message begin;
    struct drain drain;
    bool done;
};

static void draining_begin(struct loop_message *message)
{
    struct draining *draining = container_of(message, struct draining, begin);
    assert_int_equal(export_drain(&reactors[OWNER], &volume, &draining->drain), 0);
}

static void draining_done(struct drain *drain)
{
    struct draining *draining = container_of(drain, struct draining, drain);
    /* Invariant 2: the last command of each has ended, and no login slips in later. */
    for (unsigned i = 0; i < agents_count; i++) {
        const struct session *session = agents[i].connection.session;
        if (agents[i].live)
            assert_false(session->epoch == drain->epoch &&
                         (!drain->generation_below || session->generation < drain->generation_below));
    }
    draining->done = true;
}

/* What the record says when the drain begins: the removal, or a newer generation. */
static void storm(uint64_t seed, bool removal)
{
    struct draining draining = {
        .begin = {.run = draining_begin},
        .drain = {.epoch = 1, .generation_below = removal ? 0 : 4, .done = draining_done}};
    random_state = seed;
    for (unsigned i = 0; i < LOOPS; i++)
        fake_loop_seed(reactors[i].loop, seed + i);
    for (unsigned i = 0; i < AGENTS / 2; i++) {
        agent_login(1 + draw(2), 3, draw(4));
        some_steps(draw(12));
    }
    if (removal)
        attachments[0].removing = true;
    else
        attachments[0].generation = 4;
    loop_post(reactors[OWNER].loop, &draining.begin);
    for (unsigned i = 0; i < AGENTS / 2; i++) {
        struct agent *agent = agent_login(1 + draw(2), 3, draw(4));
        some_steps(draw(12));
        if (agent->decided && agent->connection.session && !agent->ended &&
            agent->verdict == SESSION_GRANTED && draining.done)
            assert_int_equal(agent->connection.session->epoch, 2);
    }
    settle(seed);
    assert_true(draining.done);
    assert_true(granted_count > 0);
    leave(seed);
}

static void drains_and_logins(void **state)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        begin(state);
        storm(seed, seed % 2);
        end(state);
    }
}

static void drain_without_sessions(void **state)
{
    struct draining draining = {.begin = {.run = draining_begin},
                                .drain = {.epoch = 1, .done = draining_done}};
    (void)state;
    loop_post(reactors[OWNER].loop, &draining.begin);
    settle(1);
    assert_true(draining.done);
    leave(1);
}

/* ---- changes of a volume that is in use ---- */

static unsigned changes_count;

static void change_run(struct loop_message *message)
{
    (void)message;
    record.limits.iops++;
    if (volume.owner_data)
        assert_int_equal(export_record_changed(volume.owner_data), 0);
    changes_count++;
}

static void changes_reach_every_session(void **state)
{
    struct loop_message change = {.run = change_run};
    (void)state;
    for (unsigned i = 0; i < 8; i++)
        agent_login(1 + i % 2, 3, i);
    settle(1);
    record.size_bytes = 2 << 20;
    loop_post(reactors[OWNER].loop, &change);
    settle(1);
    for (unsigned i = 0; i < 8; i++) {
        const struct session *session = agents[i].connection.session;
        assert_int_equal(agents[i].looked_again, 1);
        assert_int_equal(session->limits->set.iops, record.limits.iops);
        assert_int_equal(session->nexus.unit->blocks, (2 << 20) / 4096);
        assert_int_equal(session->nexus.blocks, (1 << 20) / 4096); /* what it knows of */
    }
    struct agent *late = agent_login(1, 3, 9);
    settle(1);
    assert_int_equal(late->connection.session->nexus.blocks, (2 << 20) / 4096);
    leave(1);
}

/* Sessions come and go meanwhile: none is told after its end, and none is forgotten. */
static void changes_among_logins(void **state)
{
    struct loop_message changes[AGENTS];
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        begin(state);
        random_state = seed;
        for (unsigned i = 0; i < LOOPS; i++)
            fake_loop_seed(reactors[i].loop, seed + i);
        changes_count = 0;
        for (unsigned i = 0; i < AGENTS; i++) {
            agent_login(1 + draw(2), 3, draw(6));
            some_steps(draw(8));
            changes[i] = (struct loop_message){.run = change_run};
            loop_post(reactors[OWNER].loop, &changes[i]);
            some_steps(draw(8));
        }
        settle(seed);
        assert_int_equal(changes_count, AGENTS);
        for (unsigned i = 0; i < AGENTS; i++)
            if (agents[i].live)
                assert_int_equal(agents[i].connection.session->limits->set.iops, record.limits.iops);
        leave(seed);
        end(state);
    }
}

/* ---- admission ---- */

static void refusals(void **state)
{
    (void)state;
    struct agent *old = agent_login(1, 2, 1), *plain = agent_login(1, 0, 2), *never = agent_login(9, 1, 3);
    settle(1);
    assert_int_equal(old->verdict, SESSION_FORBIDDEN);
    assert_int_equal(plain->verdict, SESSION_FORBIDDEN);
    assert_int_equal(never->verdict, SESSION_FORBIDDEN);
    struct agent *absent = agent_login(1, 3, 4);
    absent->connection.session->volume_id[0] = 'x';
    settle(1);
    assert_int_equal(absent->verdict, SESSION_UNKNOWN);
    volume.image_fails = true;
    struct agent *broken = agent_login(1, 3, 5);
    settle(1);
    assert_int_equal(broken->verdict, SESSION_UNAVAILABLE);
    volume.image_fails = false;
    leave(1);
}

static void sessions_are_bounded(void **state)
{
    (void)state;
    settings.sessions_per_volume_max = 3;
    for (unsigned i = 0; i < 3; i++)
        agent_login(1, 3, i);
    settle(1);
    assert_int_equal(granted_count, 3);
    struct agent *fourth = agent_login(1, 3, 3), *again = agent_login(1, 3, 2);
    settle(1);
    assert_int_equal(fourth->verdict, SESSION_EXHAUSTED);
    assert_int_equal(again->verdict, SESSION_GRANTED); /* takes the place of the one that it reinstates */
    leave(1);
}

static void another_epochs_nexus(void **state)
{
    (void)state;
    struct agent *one = agent_login(1, 3, 1);
    settle(1);
    struct agent *thief = agent_login(2, 3, 1);
    str_copy(thief->connection.session->initiator_name, sizeof(thief->connection.session->initiator_name),
             one->connection.session->initiator_name);
    settle(1);
    assert_int_equal(thief->verdict, SESSION_UNAVAILABLE); /* not final: it may be the rightful one */
    assert_true(one->live);
    leave(1);
}

static void a_fenced_nodes_login(void **state)
{
    (void)state;
    fenced_node = attachments[0].node_id;
    struct agent *fenced = agent_login(1, 3, 1);
    struct agent *other = agent_login(2, 3, 2);
    settle(1);
    fenced_node = NULL;
    assert_int_equal(fenced->verdict, SESSION_FORBIDDEN); /* though its attachment stands */
    assert_int_equal(other->verdict, SESSION_GRANTED);
    leave(1);
}

/* ---- holds ---- */

struct holding {
    struct loop_message begin;
    struct round round;
    bool done;
};

static void holding_done(struct round *round)
{
    struct holding *holding = container_of(round, struct holding, round);
    for (unsigned i = 0; round->kind == ROUND_HOLD && i < agents_count; i++)
        assert_false(agents[i].executing);
    holding->done = true;
}

static void holding_begin(struct loop_message *message)
{
    struct holding *holding = container_of(message, struct holding, begin);
    struct export *export = export_get(&reactors[OWNER], &volume);
    assert_int_equal(round_start(&holding->round, export), 0);
}

static void holds_wait_and_admit_none(void **state)
{
    struct holding hold = {.begin = {.run = holding_begin},
                           .round = {.kind = ROUND_HOLD, .done = holding_done}};
    struct holding release = {.begin = {.run = holding_begin},
                              .round = {.kind = ROUND_RELEASE, .done = holding_done}};
    (void)state;
    for (unsigned i = 0; i < 6; i++)
        agent_login(1, 3, i);
    some_steps(40);
    loop_post(reactors[OWNER].loop, &hold.begin);
    settle(7);
    assert_true(hold.done);
    struct agent *late = agent_login(1, 3, 9);
    settle(7);
    assert_false(late->decided);
    loop_post(reactors[OWNER].loop, &release.begin);
    settle(7);
    assert_true(release.done && late->decided);
    assert_int_equal(late->verdict, SESSION_GRANTED);
    leave(7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drains_and_logins),
        cmocka_unit_test(changes_among_logins),
        cmocka_unit_test_setup_teardown(changes_reach_every_session, begin, end),
        cmocka_unit_test_setup_teardown(drain_without_sessions, begin, end),
        cmocka_unit_test_setup_teardown(refusals, begin, end),
        cmocka_unit_test_setup_teardown(sessions_are_bounded, begin, end),
        cmocka_unit_test_setup_teardown(another_epochs_nexus, begin, end),
        cmocka_unit_test_setup_teardown(a_fenced_nodes_login, begin, end),
        cmocka_unit_test_setup_teardown(holds_wait_and_admit_none, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
