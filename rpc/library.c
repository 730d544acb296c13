/*
 * gRPC core's process-wide state. Owns nothing but the choice of where gRPC's own log lines go: its errors
 * become debug lines of ours, since whatever matters in them also reaches a caller as a status. Any thread.
 */
#include "rpc/library.h"

#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "common/log.h"

static void library_log(gpr_log_func_args *args)
{
    log_debug("grpc: %s", args->message);
}

static void library_init_log(void)
{
    gpr_set_log_function(library_log);
    if (!getenv("GRPC_VERBOSITY"))
        gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
}

void rpc_library_ref(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    sigset_t all, saved;

    pthread_once(&once, library_init_log);
    /* gRPC starts threads here: a signal is for the program's own thread that waits for it. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &saved);
    grpc_init();
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
}

void rpc_library_unref(void)
{
    grpc_shutdown();
}
