//! The model tells the truth: every rule of the modelled PostgreSQL, on the model and on the real
//! one.
//!
//! A rule is a *scenario*: a function over [`Servers`], written once. [`twins`] makes two tests of
//! each, `real::name` and `model::name`. Where the two disagree, the model is wrong.
//!
//! The real servers are those of `PGBIN`, or else the newest below `/usr/lib/postgresql`. They
//! refuse root: as root, they run as the user `postgres`.

mod live;
mod modelled;
mod scenarios;
mod servers;

/// Makes the two lists of tests, from one list of scenarios.
macro_rules! twins {
    ($($file:ident { $($name:ident),+ $(,)? })+) => {
        /// Scenarios on real servers.
        mod real {
            $($(
                #[test]
                fn $name() {
                    crate::scenarios::$file::$name(&mut crate::live::Live::new());
                }
            )+)+
        }

        /// The same scenarios on the model.
        mod model {
            $($(
                #[test]
                fn $name() {
                    crate::scenarios::$file::$name(&mut crate::modelled::Modelled::new());
                }
            )+)+
        }

        /// The scenarios that have tests, file by file.
        const LISTED: &[(&str, &str, &[&str])] = &[$((
            stringify!($file),
            include_str!(concat!("scenarios/", stringify!($file), ".rs")),
            &[$(stringify!($name)),+],
        )),+];
    };
}

twins! {
    wal {
        a_torn_tail_ends_recovery,
        a_hole_hides_what_is_behind_it,
        a_standby_fetches_a_torn_tail_again,
        unflushed_wal_is_not_sent,
        unflushed_wal_is_lost_in_a_crash,
        a_restarted_primary_shows_what_it_never_acknowledged,
        a_base_backup_is_consistent_after_its_end_only,
        an_unfinished_base_backup_is_not_promoted,
        a_standby_torn_before_its_restartpoint_waits,
        a_base_backup_of_a_standby_is_one,
    }
    waiters {
        any_k_releases_at_the_kth_newest_flush,
        first_k_waits_for_the_first_of_the_list,
        first_k_takes_the_next_for_one_that_is_gone,
        a_walsender_with_the_old_list_counts_under_the_new_number,
        a_new_list_takes_effect_with_the_next_reply,
        an_empty_list_releases_all,
        the_checkpointer_says_whether_the_list_is_empty,
        a_cancelled_wait_is_a_commit_with_a_warning,
        a_release_wins_over_a_cancellation,
        a_terminated_wait_is_a_commit_without_an_answer,
        a_waiting_commit_shows_on_standbys_only,
        a_local_commit_waits_for_nobody,
    }
    walsenders {
        a_stuck_walsender_keeps_its_place,
        two_walsenders_of_one_standby_count_twice,
        a_half_open_walsender_counts_with_its_old_position,
        a_slot_refuses_the_successor_of_a_half_open_walsender,
        a_slot_stays_where_its_standby_left,
        a_slot_keeps_wal_for_a_standby_that_is_away,
    }
    timelines {
        a_standby_follows_a_promotion,
        promotion_replays_all_that_was_received,
        a_stopped_receiver_holds_a_promotion_up,
        a_session_of_a_standby_writes_after_its_promotion,
        a_list_set_on_a_standby_holds_after_its_promotion,
        two_promotions_take_one_number,
        another_history_of_the_same_number_is_accepted,
        a_timeline_that_forked_too_early_is_not_followed,
        a_diverged_standby_releases_commits_that_it_does_not_have,
        a_diverged_standby_is_refused_beyond_the_segment,
        a_standby_ahead_releases_commits_that_it_does_not_have,
        a_standby_ahead_by_a_segment_is_refused,
        a_server_on_an_older_timeline_is_not_followed,
        history_files_raise_the_number_up_to_a_gap,
        a_placed_timeline_stops_a_start_only,
    }
    rewinds {
        a_rewind_before_the_first_checkpoint_does_nothing,
        a_rewind_takes_equal_numbers_for_one_history,
        a_rewind_of_a_server_behind_the_fork_does_nothing,
        an_interrupted_rewind_leaves_a_broken_directory,
    }
    orphans {
        a_waiting_commit_is_lost_with_the_postmaster,
        a_released_commit_is_acknowledged_by_an_orphan,
        an_orphan_executes_what_it_was_sent,
        an_orphan_does_not_execute_what_it_is_sent_later,
        an_orphan_is_not_released,
        an_orphan_of_a_standby_writes_nothing,
        an_orphan_keeps_a_new_postmaster_away,
        a_stopped_checkpointer_keeps_a_new_postmaster_away,
        a_fast_shutdown_waits_for_the_standbys,
        a_shutdown_goes_on_without_a_walsender_that_ends,
        a_fast_shutdown_ends_waits,
        a_killed_backend_ends_the_server,
        restart_after_crash_shows_what_no_standby_has,
        a_stopped_postmaster_leaves_open_sessions_alone,
        a_stopped_postmaster_reads_settings_later,
        a_stopped_checkpointer_holds_a_shutdown_up,
    }
    standbys {
        a_standby_that_follows_nobody_takes_no_wal,
        a_restarted_standby_has_what_it_flushed,
        read_only_by_default_is_no_fence,
        a_standby_refuses_writes,
    }
}

/// The lists of `real` and of `model` are one list by construction; this is its other half: no
/// scenario is without its tests.
#[test]
fn every_scenario_is_listed() {
    for (file, source, listed) in LISTED {
        let written: Vec<&str> = source
            .lines()
            .filter_map(|line| line.strip_prefix("pub fn ")?.split_once(['<', '(']))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(&written, listed, "scenarios/{file}.rs");
    }
}
