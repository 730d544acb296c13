/*
 * Have softirqs run that a system call of ours has raised. The answer to a request of a loop device ends in
 * one (blk_mq_complete_request() of a device with one queue), and one that a process raises is left to
 * ksoftirqd: whoever waits for the request then waits until that thread gets this processor, behind this very
 * process while it spins, and behind all others that are busy there.
 *
 * One thread; no state but the descriptor.
 */
#pragma once

/* A descriptor for softirq_run(), the caller's to close; -1 where there is none, which softirq_run() bears.
 */
int softirq_open(void);

/* On the processor that this thread runs on, which is the one that it has just raised them on. */
void softirq_run(int fd);
